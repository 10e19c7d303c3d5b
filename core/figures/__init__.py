"""Figures and movies in one style."""
