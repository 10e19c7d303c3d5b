"""Forecasts from a checkpoint alone: `dfm weather predict` and the forecaster."""
