"""What is minimised here and nowhere else: pure functions from features and labels to a loss."""
