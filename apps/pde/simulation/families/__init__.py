"""Families of problems that `dfm data generate pde/<family>` makes, gathered from the modules beside this
one.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

# Imported first: a submodule that is imported later would take the name `family` from the function below.
from apps.pde.simulation.families.family import Family
from core.errors import UserError, did_you_mean

__all__ = ["families", "family"]


def families() -> dict[str, Family]:
    """Return all families by name, in alphabetical order."""
    found: dict[str, Family] = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if file.stem in ("__init__", "family"):
            continue
        for one in getattr(import_module(f"{__name__}.{file.stem}"), "FAMILIES", ()):
            if one.name in found:
                raise ValueError(f"two families are called '{one.name}'")
            found[one.name] = one
    return dict(sorted(found.items()))


def family(name: str) -> Family:
    """Return the family called `name`; `-` and `_` are the same.

    Raises:
        UserError: If there is none.
    """
    known = families()
    key = name.replace("-", "_").lower()
    if key not in known:
        raise UserError(
            f"there is no family '{name}' of PDEs{did_you_mean(key, list(known))}; known: {', '.join(known)}"
        )
    return known[key]
