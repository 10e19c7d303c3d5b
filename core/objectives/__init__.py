"""What is minimised: pure functions from predictions and targets to a loss."""
