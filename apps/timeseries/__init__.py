"""Time series: forecasting with Tiny Time Mixers."""

VERBS = {"predict": "apps.timeseries.predict:main"}
"""What `dfm timeseries` does in its own way: prediction is the Forecaster's, which needs no Lightning."""
