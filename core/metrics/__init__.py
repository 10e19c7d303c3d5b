"""Scores over whole data sets and all processes."""
