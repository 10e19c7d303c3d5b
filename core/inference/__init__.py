"""From a checkpoint and raw files to predictions: predictors, tiles, windows, roll-outs, jobs and writers."""
