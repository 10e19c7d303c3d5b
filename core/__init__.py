"""What the domains share: backbones, objectives, data, checkpoints, tracking and the command line."""
