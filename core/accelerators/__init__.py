"""Devices: what each needs set."""
