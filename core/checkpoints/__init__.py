"""Checkpoints: safe files, key maps, official layouts."""
