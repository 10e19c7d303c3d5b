"""Networks of the time-series domain, one module per published system."""
