"""Figures of the field: true colour, label, map and doubt side by side; what was removed and put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apps.remote_sensing.batch import IGNORE, SceneFacts
from core.errors import listed
from core.figures.lettering import shortened, unlike
from core.figures.panels import GREY, Panel, panels_figure
from core.figures.style import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["class_colours", "composite", "examples_figure", "reconstruction_figure", "stretched"]

_TRUE = ("red", "green", "blue")
_FALSE = (("nir_narrow", "nir_broad"), ("red",), ("green",))
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
    colours: list[tuple[int, int, int]] = []
    for place, name in enumerate(names):
        for colour in (_KNOWN.get(name.lower(), spare[place]), spare[place]):
            red, green, blue = (round(255 * part) for part in to_rgb(colour))
            if (red, green, blue) not in colours:
                break
        colours.append((red, green, blue))
    return colours


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
    picture[~known] = GREY
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
    samples = [_panels(example, facts) for example in examples]
    captions = [_caption(example, facts) for example in examples]
    mapped = any(_mapped(example, facts) for example in examples)
    across = 1 if mapped else max(1, min(_ACROSS // max(map(len, samples)), len(examples)))
    classes = facts.classes if mapped and facts.target == "segmentation" else ()
    palette = class_colours(classes)
    return panels_figure(samples, captions, across=across, classes=classes, palette=palette, title=title)


def reconstruction_figure(
    examples: Sequence[Mapping[str, Any]], facts: SceneFacts, *, title: str = ""
) -> Figure:
    """Draw scenes and their dates in rows: what there was, what the network saw, what it made of it.

    Args:
        examples: `image` and `prediction` `(C, T, H, W)`, `valid` and `removed` `(T, H, W)`, `name`.
        facts: Of the data module.
        title: Above everything.
    """
    rows, captions = [], []
    how = {"bands": facts.bands, "mean": facts.mean, "std": facts.std}
    for example in examples:
        dates = example["image"].shape[1]
        for date in range(dates):
            image, predicted = (example[name][:, date].float().numpy() for name in ("image", "prediction"))
            valid, removed = (example[name][date].numpy() for name in ("valid", "removed"))
            limits = stretched(_denormalised(image, facts)[_places(facts.bands)], valid)
            whole = composite(image, valid=valid, limits=limits, **how)
            guess = composite(predicted, limits=limits, **how)
            seen, joined = whole.copy(), np.where(removed[..., None], guess, whole)
            seen[removed] = GREY
            heads = ("scene", "seen", "predicted", "put together")
            pictures = (whole, seen, guess, joined)
            rows.append([Panel(head, picture) for head, picture in zip(heads, pictures, strict=True)])
            captions.append(shortened(example["name"]) + (f", date {date + 1}" if dates > 1 else ""))
    return panels_figure(rows, captions, title=title)


def _mapped(example: Mapping[str, Any], facts: SceneFacts) -> bool:
    """Say whether there is a class or a number for each pixel."""
    predicted = example.get("prediction")
    if facts.target == "regression":
        return predicted is not None and predicted.ndim == 2
    return bool(facts.target == "segmentation")


def _panels(example: Mapping[str, Any], facts: SceneFacts) -> list[Panel]:
    image, valid = example["image"].float().numpy(), example["valid"].numpy()
    dates = image.shape[1]
    panels = []
    for date in range(dates):
        head = f"date {date + 1}" if dates > 1 else "scene"
        how = {"mean": facts.mean, "std": facts.std, "valid": valid[date]}
        panels.append(Panel(head, composite(image[:, date], facts.bands, **how)))
    if _mapped(example, facts):
        draw = _maps if facts.target == "segmentation" else _numbers
        panels += draw(example, facts, valid.any(0))
    return panels


def _maps(example: Mapping[str, Any], facts: SceneFacts, seen: NDArray[np.bool_]) -> list[Panel]:
    """Return panels of classes and doubt; what was made of pixels without data is grey."""
    palette = np.asarray(class_colours(facts.classes), np.float32) / 255
    panels = []
    for head, known in (("label", np.ones_like(seen)), ("prediction", seen)):
        if example.get(head) is not None:
            classes = np.where(known, example[head].numpy(), IGNORE)
            picture = palette[classes.clip(min=0)]
            picture[classes == IGNORE] = GREY
            panels.append(Panel(head, picture))
    if example.get("uncertainty") is not None:
        doubt = np.where(seen, example["uncertainty"].float().numpy(), np.nan)
        panels.append(Panel("doubt", doubt, "magma"))
    return panels


def _numbers(example: Mapping[str, Any], facts: SceneFacts, seen: NDArray[np.bool_]) -> list[Panel]:
    """Return panels of numbers and their error; those that are unknown or without data are grey."""
    known = example["label"].float().numpy()
    predicted = np.where(seen, example["prediction"].float().numpy(), np.nan)
    error = predicted - known
    off = np.abs(error[np.isfinite(error)])
    size = max(float(np.percentile(off, 98)), 1e-6) if off.size else 1.0
    finite = known[np.isfinite(known)] if np.isfinite(known).any() else predicted[np.isfinite(predicted)]
    limits = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return [
        Panel("label", known, limits=limits),
        Panel("prediction", predicted, limits=limits),
        Panel("error", error, "RdBu_r", (-size, size)),
    ]


def _caption(example: Mapping[str, Any], facts: SceneFacts) -> str:
    """Return a scene's name and, without maps, what it is and what it was taken for."""
    text = shortened(example["name"])
    if example.get("prediction") is not None and not _mapped(example, facts):
        text += f"\n{_verdict(example.get('label'), example['prediction'], facts.classes)}"
    return text


def _verdict(label: Any, predicted: Any, classes: Sequence[str]) -> str:
    """Return what a scene is and what it was taken for."""
    if predicted.ndim == 0:
        known = label is not None and bool(label.isfinite())
        return f"{f'{float(label):.4g}' if known else 'unknown'}, predicted {float(predicted):.4g}"
    names = unlike([shortened(name, 28) for name in classes])
    if label is not None and label.ndim:
        true = [name for name, held in zip(names, label.tolist(), strict=True) if held]
        guess = [name for name, share in zip(names, predicted.tolist(), strict=True) if share > 0.5]
        return f"{_listed(true)}\npredicted {_listed(guess)}"
    best = int(predicted.argmax())
    unknown = label is None or int(label) == IGNORE
    return (
        f"{'unknown' if unknown else names[int(label)]}\n"
        f"predicted {names[best]} ({100 * float(predicted[best]):.0f} %)"
    )


def _listed(names: Sequence[str]) -> str:
    return listed(names, _LISTED) or "none"


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
