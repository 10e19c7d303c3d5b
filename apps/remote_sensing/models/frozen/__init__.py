"""Features of networks that are not trained, and what images become before them."""
