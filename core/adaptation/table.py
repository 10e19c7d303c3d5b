"""Table of what is trained, for the terminal."""

from __future__ import annotations

import re

from torch import nn

from core.tables import text_table

__all__ = ["trained_table"]

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


def trained_table(network: nn.Module) -> str:
    """Return a table of the trained parameters: module, shapes, how many are trained, and their share of it.

    Repeated modules of the same parameters stand in one line, their numbers written as `*`.
    """
    rows: dict[tuple[str, str], list[int]] = {}
    shapes: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in network.named_parameters():
        module, _, leaf = name.rpartition(".")
        shapes.setdefault(module, []).append((leaf, parameter))
    trained = total = 0
    for module, parameters in shapes.items():
        sizes = [(leaf, parameter) for leaf, parameter in parameters if parameter.requires_grad]
        own, held = sum(p.numel() for _, p in sizes), sum(p.numel() for _, p in parameters)
        trained, total = trained + own, total + held
        if not sizes:
            continue
        shown = ", ".join(f"{leaf} {'x'.join(map(str, p.shape)) or '1'}" for leaf, p in sizes)
        row = rows.setdefault((_NUMBER.sub("*", module) or "(network)", shown), [0, 0, 0])
        row[0], row[1], row[2] = row[0] + 1, row[1] + own, row[2] + held
    lines = []
    for (module, shown), (count, own, held) in rows.items():
        times = f" ({count} of them)" if count > 1 else ""
        lines.append((module + times, shown, _grouped(own), _share(own, held)))
    lines.append(("all", "", f"{_grouped(trained)} of {_grouped(total)}", _share(trained, total)))
    return text_table(lines, head=("module", "shape", "trained", "share"))


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "-"
