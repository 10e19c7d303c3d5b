"""How recorded cases map onto the networks here, one module a system."""
