"""Readers of texts and of containers of tokens."""
