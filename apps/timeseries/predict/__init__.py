"""Forecasts from a checkpoint alone: `dfm timeseries predict` and the Forecaster."""
