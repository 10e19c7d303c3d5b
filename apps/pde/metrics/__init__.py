"""Scores of predicted fields, and what physics says of them."""
