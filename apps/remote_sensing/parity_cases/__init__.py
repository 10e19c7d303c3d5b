"""Recorded cases on the networks here, one module a system."""
