"""Readers of simulation files, one module a layout."""
