"""Names of a package whose modules are imported when one is first asked for: heads of packages stay light."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ["lazy"]


def lazy(package: str, **modules: str) -> Callable[[str], Any]:
    """Return a module's `__getattr__` (PEP 562) that finds each name in its module of `package`.

    Args:
        package: The package's `__name__`.
        **modules: Name to the module below `package` that defines it.
    """

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return find
