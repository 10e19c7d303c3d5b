"""Facts about data: what a checkpoint must carry so that it alone predicts in physical units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from core.errors import UserError

__all__ = ["Facts", "plain_copy"]

_SCALARS = (str, int, float, bool, type(None))


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts that a data module knows of its data; each domain has a subclass in its `batch.py`.

    Fields are numbers, strings, tensors, tuples, mappings with string keys, and frozen dataclasses of these.
    A field that a task adds while it trains (residuals, a temperature) has a default.

    Attributes:
        sources: Names of the data sets.
        licences: Their licences.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"arbitrary_types_allowed": True, "extra": "forbid"}

    sources: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return the facts in plain containers, with CPU tensors that share no memory with these.

        Raises:
            TypeError: If a value is not plain; the message names its path.
        """
        return {one.name: plain_copy(getattr(self, one.name), f"facts.{one.name}") for one in fields(self)}

    @classmethod
    def from_plain(cls, held: Mapping[str, Any], *, where: str = "the checkpoint") -> Self:
        """Return the facts that `plain` gave; fields that it lacks have their defaults.

        Raises:
            UserError: If a field is missing, unknown or of another type: naming it and `where` it stands.
        """
        from pydantic import ValidationError

        try:
            return _adapter(cls).validate_python(dict(held))  # type: ignore[arg-type]
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            domain = cls.__module__.split(".")[1]
            raise UserError(
                f"{where} does not hold the facts of {domain} data ({name}: {first['msg'].lower()}), so it "
                f"is none of {domain.replace('_', ' ')}, or of another version; give one that "
                f"`dfm {domain.replace('_', '-')} fit` wrote"
            ) from error


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def plain_copy(value: Any, where: str) -> Any:
    """Return `value` in plain containers, numbers, strings and CPU tensors of its own."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if hasattr(value, "__dataclass_fields__"):
        return {
            one.name: plain_copy(getattr(value, one.name), f"{where}.{one.name}") for one in fields(value)
        }
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, (str, int)):
                raise TypeError(f"{where} has the key {name!r}; keys must be strings or whole numbers")
        return {name: plain_copy(entry, f"{where}.{name}") for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_copy(entry, f"{where}.{number}") for number, entry in enumerate(value)]
    if type(value) in _SCALARS:
        return value
    if hasattr(value, "__array__") and hasattr(value, "dtype"):  # numpy arrays and scalars
        return value.item() if getattr(value, "shape", ()) == () else torch.as_tensor(value).clone()
    raise TypeError(
        f"{where} is a {type(value).__name__}; only plain containers, numbers, strings and tensors are kept"
    )
