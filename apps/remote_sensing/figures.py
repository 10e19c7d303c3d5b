"""What people in the field look at: true colour, label, map and doubt side by side; removed and put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apps.remote_sensing.batch import IGNORE
from core.tracking.figures import PALETTE, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["class_colours", "composite", "examples_figure", "reconstruction_figure", "stretched"]

_TRUE = ("red", "green", "blue")
_FALSE = (("nir_narrow", "nir_broad"), ("red",), ("green",))
_GREY = (0.85, 0.85, 0.85)
_KNOWN = {
    "water": "#2C7FB8",
    "flood": "#41B6C4",
    "dry": "#D9C8A3",
    "land": "#D9C8A3",
    "forest": "#1B7837",
    "trees": "#1B7837",
    "crops": "#E7B800",
    "cropland": "#E7B800",
    "grass": "#A6D96A",
    "grassland": "#A6D96A",
    "wetland": "#66C2A5",
    "built": "#B2182B",
    "built-up": "#B2182B",
    "bare": "#A6611A",
    "snow": "#F7F7F7",
    "burnt": "#7F0000",
    "not burnt": "#D9D9D9",
    "changed": "#D7301F",
    "same": "#D9D9D9",
}
"""Colours that maps have by custom; other classes take those of a palette."""


def class_colours(names: Sequence[str]) -> list[tuple[int, int, int]]:
    """Return red, green and blue of each class, 0 to 255: by custom where there is one, else told apart."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    spare = [*PALETTE, *(colormaps["tab20"](place) for place in range(20))]
    found: list[tuple[int, int, int]] = []
    for place, name in enumerate(names):
        colour = _KNOWN.get(name.lower(), spare[place % len(spare)])
        red, green, blue = (round(255 * part) for part in to_rgb(colour))
        found.append((red, green, blue))
    return found


def composite(
    image: ArrayLike,
    bands: Sequence[str],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    valid: ArrayLike | None = None,
    limits: tuple[NDArray[Any], NDArray[Any]] | None = None,
) -> NDArray[np.float32]:
    """Return a picture `(H, W, 3)` in [0, 1]: true colour, else false colour, else the first bands as grey.

    Args:
        image: `(C, H, W)`, normalised where `mean` and `std` are given.
        bands: Names of the C bands.
        mean: Added back, times `std`.
        std: See `mean`.
        valid: `(H, W)`, False where there is no data, which is shown grey.
        limits: Darkest and brightest value of each colour; None takes the 2nd and 98th percentile.
    """
    values = np.asarray(image, dtype=np.float32)
    if mean is not None and std is not None:
        values = (
            values * np.asarray(std, np.float32)[:, None, None] + np.asarray(mean, np.float32)[:, None, None]
        )
    chosen = values[_places(bands)]
    known = np.ones(chosen.shape[1:], bool) if valid is None else np.asarray(valid, bool)
    low, high = stretched(chosen, known) if limits is None else limits
    shown = (chosen - low[:, None, None]) / np.maximum(high - low, 1e-6)[:, None, None]
    picture = np.moveaxis(shown.clip(0, 1), 0, -1)
    picture[~known] = _GREY
    return picture


def stretched(values: NDArray[Any], valid: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the 2nd and 98th percentile of each of the bands `(3, H, W)` over valid pixels."""
    seen = values[:, valid] if valid.any() else values.reshape(len(values), -1)
    low, high = np.percentile(seen, (2, 98), axis=1)
    return low, high


def examples_figure(
    examples: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], *, title: str = ""
) -> Figure:
    """Draw scenes in rows: each date in colour, then label, prediction, and doubt or error.

    Args:
        examples: `image` `(C, T, H, W)`, `valid` `(T, H, W)`, `label`, `prediction`, and where there is one
            `uncertainty` `(H, W)`, as tensors; `name`.
        facts: Of the data module.
        title: Above everything.
    """
    panels = [_panels(example, facts) for example in examples]
    columns = max(len(row) for row in panels)
    with style():
        figure, axes = new_figure(
            len(panels), columns, width=2.3 * columns + 0.4, height=2.45 * len(panels) + 0.9
        )
        for row, (example, shown) in enumerate(zip(examples, panels, strict=True)):
            for column in range(columns):
                axis = axes[row, column]
                axis.set_axis_off()
                if column < len(shown):
                    _draw(figure, axis, shown[column], heading=row == 0)
            axes[row, 0].text(0.0, -0.04, _short(example["name"]), transform=axes[row, 0].transAxes,
                              fontsize=7, va="top")  # fmt: skip
        if facts["target"] in ("segmentation",):
            _legend(figure, facts["classes"])
        figure.suptitle(title)
    return figure


def reconstruction_figure(
    examples: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], *, title: str = ""
) -> Figure:
    """Draw scenes and their dates in rows: what there was, what the network saw, what it made of it.

    Args:
        examples: `image` and `prediction` `(C, T, H, W)`, `valid` and `removed` `(T, H, W)`, `name`.
        facts: Of the data module.
        title: Above everything.
    """
    lines = [(example, date) for example in examples for date in range(example["image"].shape[1])]
    heads = ("scene", "seen", "predicted", "put together")
    with style():
        figure, axes = new_figure(len(lines), 4, width=9.4, height=2.3 * len(lines) + 0.8)
        for row, (example, date) in enumerate(lines):
            image, made = (example[name][:, date].float().numpy() for name in ("image", "prediction"))
            valid, removed = (example[name][date].numpy() for name in ("valid", "removed"))
            chosen = _denormalised(image, facts)[_places(facts["bands"])]
            options = {
                "bands": facts["bands"],
                "mean": facts["mean"],
                "std": facts["std"],
                "limits": stretched(chosen, valid),
            }
            whole, guess = composite(image, valid=valid, **options), composite(made, **options)
            seen, joined = whole.copy(), np.where(removed[..., None], guess, whole)
            seen[removed] = _GREY
            for column, (head, picture) in enumerate(zip(heads, (whole, seen, guess, joined), strict=True)):
                axis = axes[row, column]
                axis.imshow(picture, interpolation="nearest")
                axis.set_axis_off()
                if row == 0:
                    axis.set_title(head)
            dated = f", date {date + 1}" if example["image"].shape[1] > 1 else ""
            axes[row, 0].text(0.0, -0.04, f"{_short(example['name'])}{dated}", fontsize=7, va="top",
                              transform=axes[row, 0].transAxes)  # fmt: skip
        figure.suptitle(title)
    return figure


def _panels(example: Mapping[str, Any], facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    image, valid = example["image"].float().numpy(), example["valid"].numpy()
    dates = image.shape[1]
    panels = [
        {
            "head": f"date {date + 1}" if dates > 1 else "scene",
            "picture": composite(
                image[:, date], facts["bands"], mean=facts["mean"], std=facts["std"], valid=valid[date]
            ),
        }
        for date in range(dates)
    ]
    label, made = example.get("label"), example.get("prediction")
    if facts["target"] == "segmentation":
        palette = np.asarray(class_colours(facts["classes"]), np.float32) / 255
        for head, classes in (("label", label), ("prediction", made)):
            if classes is not None:
                panels.append({"head": head, "picture": _coloured(classes.numpy(), palette)})
        if example.get("uncertainty") is not None:
            panels.append({"head": "doubt", "values": example["uncertainty"].float().numpy(), "map": "magma",
                           "limits": (0.0, 1.0)})  # fmt: skip
    elif facts["target"] == "regression" and made is not None and made.ndim == 2:
        known = label.float().numpy()
        finite = known[np.isfinite(known)]
        limits = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        for head, values in (("label", known), ("prediction", made.float().numpy())):
            panels.append({"head": head, "values": values, "map": "viridis", "limits": limits})
        error = made.float().numpy() - known
        size = float(np.nanpercentile(np.abs(error), 98)) if finite.size else 1.0
        panels.append({"head": "error", "values": error, "map": "RdBu_r", "limits": (-size, size)})
    elif made is not None:
        panels[-1]["below"] = _verdict(label, made, facts["classes"])
    return panels


def _draw(figure: Figure, axis: Any, panel: Mapping[str, Any], *, heading: bool) -> None:
    if "picture" in panel:
        axis.imshow(panel["picture"], interpolation="nearest")
    else:
        low, high = panel["limits"]
        drawn = axis.imshow(panel["values"], cmap=panel["map"], vmin=low, vmax=high, interpolation="nearest")
        figure.colorbar(drawn, ax=axis, shrink=0.7, pad=0.02)
    if heading:
        axis.set_title(panel["head"])
    if "below" in panel:
        axis.text(0.0, -0.12, panel["below"], transform=axis.transAxes, fontsize=7, va="top")


def _verdict(label: Any, made: Any, classes: Sequence[str]) -> str:
    """Return what a scene is and what it was taken for."""
    if made.ndim == 0:
        return f"{float(label):.4g}, predicted {float(made):.4g}"
    if label is not None and label.ndim:
        true = [name for name, held in zip(classes, label.tolist(), strict=True) if held]
        guess = [name for name, share in zip(classes, made.tolist(), strict=True) if share > 0.5]
        return f"{', '.join(true) or 'none'}\npredicted {', '.join(guess) or 'none'}"
    best = int(made.argmax())
    true = "unknown" if label is None or int(label) == IGNORE else classes[int(label)]
    return f"{true}\npredicted {classes[best]} ({100 * float(made[best]):.0f} %)"


def _coloured(classes: NDArray[Any], palette: NDArray[np.float32]) -> NDArray[np.float32]:
    picture = palette[classes.clip(min=0)]
    picture[classes == IGNORE] = _GREY
    return picture


def _legend(figure: Figure, classes: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    colours = [tuple(part / 255 for part in colour) for colour in class_colours(classes)]
    patches = [Patch(color=colour, label=name) for colour, name in zip(colours, classes, strict=True)]
    figure.legend(handles=[*patches, Patch(color=_GREY, label="unknown")], loc="outside lower center",
                  ncols=min(len(classes) + 1, 7))  # fmt: skip


def _places(bands: Sequence[str]) -> list[int]:
    known = list(bands)
    if all(name in known for name in _TRUE):
        return [known.index(name) for name in _TRUE]
    false = [next((known.index(name) for name in choices if name in known), None) for choices in _FALSE]
    if all(place is not None for place in false):
        return [place for place in false if place is not None]
    return [0, 0, 0] if len(known) < 3 else [0, 1, 2]


def _denormalised(image: NDArray[Any], facts: Mapping[str, Any]) -> NDArray[Any]:
    mean, std = (np.asarray(facts[name], np.float32)[:, None, None] for name in ("mean", "std"))
    return image * std + mean


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:18]}…{name[-20:]}"
