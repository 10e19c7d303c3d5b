"""Trajectories from a checkpoint alone: `dfm pde predict` and the surrogate."""
