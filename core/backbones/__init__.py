"""Networks and building blocks that systems share."""
