"""Simulated landscapes: ground, seasons, sky and sensor of multi-date satellite scenes with exact labels."""
