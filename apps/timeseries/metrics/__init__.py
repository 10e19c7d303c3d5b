"""Scores of forecasts, and the baselines beside them."""
