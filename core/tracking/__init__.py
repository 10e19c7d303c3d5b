"""Following a run: loggers, figures, throughput, report."""
