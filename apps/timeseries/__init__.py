"""Time series: forecasting with Tiny Time Mixers."""

VERBS = {"predict": "apps.timeseries.predict:main"}
"""What `dfm timeseries` does in its own way: prediction is the Forecaster's, which needs no Lightning."""

INHERITED = ("context", "horizon")
"""Values of the data that a recipe takes over from its parent's run, because the network is bound to them."""

ABOUT_DATA = (
    "card", "sources", "weights", "samples", "test_sources", "held_out", "time", "ids", "targets", 
    "observable",
    "control", "conditional", "categorical", "static_categorical", "frequency", "resolutions",
)  # fmt: skip
"""What a recipe says of its own data, and `--data.path` makes void."""
