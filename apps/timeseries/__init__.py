"""Time series: forecasting with Tiny Time Mixers."""
