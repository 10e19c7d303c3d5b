"""Continuations from a checkpoint alone: `dfm music predict` and the writer."""
