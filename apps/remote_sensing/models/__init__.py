"""Networks that read images of the Earth, one module a system."""
