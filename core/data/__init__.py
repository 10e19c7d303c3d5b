"""Data: batches, samplers, randomness, mixtures, cards and downloads."""
