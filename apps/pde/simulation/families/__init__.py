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
    by_name: dict[str, Family] = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if file.stem in ("__init__", "family"):
            continue
        for family in getattr(import_module(f"{__name__}.{file.stem}"), "FAMILIES", ()):
            if family.name in by_name:
                raise ValueError(f"two families are called '{family.name}'")
            by_name[family.name] = family
    return dict(sorted(by_name.items()))


def family(name: str) -> Family:
    """Return the family called `name`; `-` and `_` are the same.

    Raises:
        UserError: If there is none.
    """
    by_name = families()
    key = name.replace("-", "_").lower()
    if key not in by_name:
        raise UserError(
            f"there is no family '{name}' of PDEs{did_you_mean(key, list(by_name))}; known: "
            f"{', '.join(by_name)}"
        )
    return by_name[key]
