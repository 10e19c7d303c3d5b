"""Scores of language models, and the baselines beside them."""
