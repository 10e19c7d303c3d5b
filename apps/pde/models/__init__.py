"""Networks that advance fields, one module a system."""
