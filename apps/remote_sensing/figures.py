"""What people in the field look at: true colour, label, map and doubt side by side; removed and put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apps.remote_sensing.batch import IGNORE, SceneFacts
from core.figures.lettering import headline, named, shortened, text_width, unlike, wrapped
from core.figures.style import PALETTE, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["class_colours", "composite", "examples_figure", "legend", "reconstruction_figure", "stretched"]

_TRUE = ("red", "green", "blue")
_FALSE = (("nir_narrow", "nir_broad"), ("red",), ("green",))
_GREY = (0.85, 0.85, 0.85)
_SIDE = 2.3  # inches of a panel
_SMALL = 7  # points below panels
_ACROSS = 4  # panels side by side where scenes share a row
_LISTED = 6  # labels of one scene that are spelt out
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
    from colorsys import hsv_to_rgb

    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    spare = [*PALETTE, *(colormaps["tab20"](place) for place in range(20))]
    # beyond, hues a golden ratio of the circle apart, which never come back
    spare += [hsv_to_rgb(place * 0.618 % 1, 0.6, 0.7) for place in range(len(spare), len(names))]
    found: list[tuple[int, int, int]] = []
    for place, name in enumerate(names):
        for colour in (_KNOWN.get(name.lower(), spare[place]), spare[place]):
            red, green, blue = (round(255 * part) for part in to_rgb(colour))
            if (red, green, blue) not in found:
                break
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


def examples_figure(examples: Sequence[Mapping[str, Any]], facts: SceneFacts, *, title: str = "") -> Figure:
    """Draw scenes: each date in colour, then label, prediction, and doubt or error.

    Scenes with maps have a row each; scenes with labels of the whole stand side by side, these below.

    Args:
        examples: `image` `(C, T, H, W)`, `valid` `(T, H, W)`, `label`, `prediction`, and where there is one
            `uncertainty` `(H, W)`, as tensors; `name`.
        facts: Of the data module.
        title: Above everything.
    """
    panels = [_panels(example, facts) for example in examples]
    columns = max(len(row) for row in panels)
    mapped = any(_mapped(example, facts) for example in examples)
    across = 1 if mapped else max(1, min(_ACROSS // columns, len(examples)))
    rows = -(-len(examples) // across)
    with style():
        figure, axes = new_figure(rows, across * columns, width=max(_SIDE * across * columns + 0.4, 3.2))
        captions = [_caption(figure, example, facts, inches=_SIDE - 0.15) for example in examples]
        for axis in axes.ravel():
            axis.set_axis_off()
        for place, (shown, caption) in enumerate(zip(panels, captions, strict=True)):
            row, first = place // across, place % across * columns
            for axis, panel in zip(axes[row, first:], shown, strict=False):
                _draw(figure, axis, panel, heading=row == 0)
            _below(axes[row, first], caption)
        if mapped and facts.target == "segmentation":
            legend(figure, facts.classes, class_colours(facts.classes))
        headline(figure, title)
        _fit(figure, axes, examples)
    return figure


def reconstruction_figure(
    examples: Sequence[Mapping[str, Any]], facts: SceneFacts, *, title: str = ""
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
            chosen = _denormalised(image, facts)[_places(facts.bands)]
            options = {
                "bands": facts.bands,
                "mean": facts.mean,
                "std": facts.std,
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
            text = f"{shortened(example['name'])}{dated}"
            _below(axes[row, 0], wrapped(figure, text, inches=_SIDE - 0.15, size=_SMALL))
        headline(figure, title)
        _fit(figure, axes, examples)
    return figure


def legend(
    figure: Figure, names: Sequence[str], colours: Sequence[tuple[int, int, int]], *, unknown: str = "unknown"
) -> None:
    """Set the colours of classes below everything, in as many columns as there is room for.

    Args:
        figure: Its width is final.
        names: Of the classes.
        colours: Red, green and blue of each, 0 to 255.
        unknown: What grey stands for.
    """
    from matplotlib.patches import Patch

    parts = [tuple(part / 255 for part in colour) for colour in colours]
    labels = [*named(names), unknown]
    patches = [Patch(color=part, label=label) for part, label in zip([*parts, _GREY], labels, strict=True)]
    widest = max(text_width(figure, label, size=9) for label in labels)
    columns = max(1, min(int((figure.get_figwidth() - 0.3) / (widest + 0.65)), len(patches), 7))
    figure.legend(handles=patches, loc="outside lower center", ncols=columns)


def _mapped(example: Mapping[str, Any], facts: SceneFacts) -> bool:
    """Say whether there is a class or a number for each pixel."""
    made = example.get("prediction")
    if facts.target == "regression":
        return made is not None and made.ndim == 2
    return bool(facts.target == "segmentation")


def _panels(example: Mapping[str, Any], facts: SceneFacts) -> list[dict[str, Any]]:
    image, valid = example["image"].float().numpy(), example["valid"].numpy()
    dates = image.shape[1]
    panels = [
        {
            "head": f"date {date + 1}" if dates > 1 else "scene",
            "picture": composite(
                image[:, date], facts.bands, mean=facts.mean, std=facts.std, valid=valid[date]
            ),
        }
        for date in range(dates)
    ]
    if _mapped(example, facts):
        draw = _maps if facts.target == "segmentation" else _numbers
        panels += draw(example, facts, valid.any(0))
    return panels


def _maps(example: Mapping[str, Any], facts: SceneFacts, seen: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return panels of classes and doubt; what was made of pixels without data is grey."""
    palette = np.asarray(class_colours(facts.classes), np.float32) / 255
    panels: list[dict[str, Any]] = []
    for head, known in (("label", np.ones_like(seen)), ("prediction", seen)):
        if example.get(head) is not None:
            classes = np.where(known, example[head].numpy(), IGNORE)
            panels.append({"head": head, "picture": _coloured(classes, palette)})
    if example.get("uncertainty") is not None:
        doubt = np.where(seen, example["uncertainty"].float().numpy(), np.nan)
        panels.append({"head": "doubt", "values": doubt, "map": "magma", "limits": (0.0, 1.0)})
    return panels


def _numbers(example: Mapping[str, Any], facts: SceneFacts, seen: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return panels of numbers and their error; those that are unknown or without data are grey."""
    known = example["label"].float().numpy()
    made = np.where(seen, example["prediction"].float().numpy(), np.nan)
    error = made - known
    off = np.abs(error[np.isfinite(error)])
    size = max(float(np.percentile(off, 98)), 1e-6) if off.size else 1.0
    finite = known[np.isfinite(known)] if np.isfinite(known).any() else made[np.isfinite(made)]
    limits = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    panels = [{"head": head, "values": values, "map": "viridis", "limits": limits}
              for head, values in (("label", known), ("prediction", made))]  # fmt: skip
    return [*panels, {"head": "error", "values": error, "map": "RdBu_r", "limits": (-size, size)}]


def _draw(figure: Figure, axis: Any, panel: Mapping[str, Any], *, heading: bool) -> None:
    from matplotlib import colormaps

    if "picture" in panel:
        axis.imshow(panel["picture"], interpolation="nearest")
    else:
        low, high = panel["limits"]
        colours = colormaps[panel["map"]].with_extremes(bad=_GREY)
        drawn = axis.imshow(panel["values"], cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        figure.colorbar(drawn, ax=axis, shrink=0.7, pad=0.02, anchor=(0.0, 0.5), panchor=False)
    if heading:
        axis.set_title(panel["head"])


def _fit(figure: Figure, axes: NDArray[Any], examples: Sequence[Mapping[str, Any]]) -> None:
    """Make the figure as high as its panels need at the width they have, so that no cell has gaps."""
    shapes = [example["valid"].shape[-2:] for example in examples]
    tall = max(min(max(height / width, 0.4), 2.5) for height, width in shapes)
    for axis in axes.ravel():
        axis.set_aspect("auto")
    # first so high that all margins fit, which do not change with the height
    figure.set_figheight(figure.get_figheight() + 10.0 + len(axes) * 3.0)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    box = axes[0, 0].get_position()
    width, height = box.width * figure.get_figwidth(), box.height * figure.get_figheight()
    figure.set_figheight(figure.get_figheight() + len(axes) * (tall * width - height))
    for axis in axes.ravel():
        axis.set_aspect("equal", anchor="S")


def _below(axis: Any, text: str) -> None:
    axis.annotate(text, (0, 0), (0, -4), xycoords="axes fraction", textcoords="offset points",
                  fontsize=_SMALL, va="top", annotation_clip=False)  # fmt: skip


def _caption(figure: Figure, example: Mapping[str, Any], facts: SceneFacts, *, inches: float) -> str:
    """Return a scene's name and, without maps, what it is and what it was taken for."""
    text = shortened(example["name"])
    if example.get("prediction") is not None and not _mapped(example, facts):
        text += f"\n{_verdict(example.get('label'), example['prediction'], facts.classes)}"
    return wrapped(figure, text, inches=inches, size=_SMALL)


def _verdict(label: Any, made: Any, classes: Sequence[str]) -> str:
    """Return what a scene is and what it was taken for."""
    if made.ndim == 0:
        known = label is not None and bool(label.isfinite())
        return f"{f'{float(label):.4g}' if known else 'unknown'}, predicted {float(made):.4g}"
    names = unlike([shortened(name, 28) for name in classes])
    if label is not None and label.ndim:
        true = [name for name, held in zip(names, label.tolist(), strict=True) if held]
        guess = [name for name, share in zip(names, made.tolist(), strict=True) if share > 0.5]
        return f"{_listed(true)}\npredicted {_listed(guess)}"
    best = int(made.argmax())
    unknown = label is None or int(label) == IGNORE
    return (
        f"{'unknown' if unknown else names[int(label)]}\n"
        f"predicted {names[best]} ({100 * float(made[best]):.0f} %)"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(names[:_LISTED]) or 'none'}{more}"


def _coloured(classes: NDArray[Any], palette: NDArray[np.float32]) -> NDArray[np.float32]:
    picture = palette[classes.clip(min=0)]
    picture[classes == IGNORE] = _GREY
    return picture


def _places(bands: Sequence[str]) -> list[int]:
    known = list(bands)
    if all(name in known for name in _TRUE):
        return [known.index(name) for name in _TRUE]
    false = [next((known.index(name) for name in choices if name in known), None) for choices in _FALSE]
    if all(place is not None for place in false):
        return [place for place in false if place is not None]
    return [0, 0, 0] if len(known) < 3 else [0, 1, 2]


def _denormalised(image: NDArray[Any], facts: SceneFacts) -> NDArray[Any]:
    mean, std = (np.asarray(one, np.float32)[:, None, None] for one in (facts.mean, facts.std))
    return image * std + mean
