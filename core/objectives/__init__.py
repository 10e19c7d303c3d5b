"""Objectives: pure functions from predictions and targets to a loss."""
