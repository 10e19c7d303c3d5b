"""Numerical solvers on batched tensors, one module an equation."""
