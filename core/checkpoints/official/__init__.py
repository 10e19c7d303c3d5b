"""Official layouts of the systems that live in core: their parameter names and configurations."""
