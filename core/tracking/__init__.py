"""Following a run: loggers, figures, throughput, progress and the report."""
