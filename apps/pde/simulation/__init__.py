"""Solvers and families of problems that make trajectories."""
