"""A picture beside a map: scene, map and legend, read with few pixels whatever the size."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apps.remote_sensing.predict.geotiff import writing
from core.errors import UserError
from core.figures.lettering import headline, named
from core.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from apps.remote_sensing.predict.mapping import SceneMap
    from apps.remote_sensing.predict.model import SceneModel
    from apps.remote_sensing.predict.settings import MapSettings

__all__ = ["quick_look"]

_SIDE = 768  # pixels of a picture's longer side
_MARK = "domainfm"


def quick_look(
    made: SceneMap, paths: Sequence[Path], model: SceneModel, settings: MapSettings
) -> Path | None:
    """Draw a map beside its scene as `<map>.png` and return that file, None if it is kept as it is.

    Args:
        made: The map.
        paths: The scene's files.
        model: Says what the map is of.
        settings: How it was made.
    """
    out = made.path.with_suffix(".png")
    if out.exists() and not _ours(out):
        print(f"{out} exists and is no picture made here; it stays", file=sys.stderr, flush=True)
        return None
    if out.exists() and made.existed:
        return None
    from core.figures.style import style

    try:
        with style(), writing(out), replacing(out) as temporary:
            figure = _figure(made, paths, model, settings)
            figure.savefig(temporary, format="png", metadata={"Software": _MARK})
    except UserError as error:  # the map is whole without
        print(f"no picture: {error}", file=sys.stderr, flush=True)
        return None
    return out


def _figure(made: SceneMap, paths: Sequence[Path], model: SceneModel, settings: MapSettings) -> Figure:
    from apps.remote_sensing.predict.model import FilledModel, NumbersModel
    from core.figures.panels import class_legend
    from core.figures.style import new_figure

    scene, valid = _scene(paths, settings)
    values = _values(made.path)
    panels: list[dict[str, Any]] = [{"head": "scene", "picture": _colour(scene[0], valid[0], model)}]
    classes: Sequence[str] = ()
    if isinstance(model, FilledModel):
        date = int((~valid).sum((1, 2)).argmax())  # the one with the most to fill in
        filled = values.reshape(model.frames, len(model.bands), *values.shape[1:])[date]
        panels = [
            {"head": f"date {date + 1}", "picture": _colour(scene[date], valid[date], model)},
            {"head": "filled", "picture": _colour(filled, np.isfinite(filled).all(0), model)},
        ]
    elif isinstance(model, NumbersModel):
        panels.append({"head": named(settings.names)[0], "values": values[0], "map": "viridis"})
    else:
        classes = settings.names
        panels.append({"head": "map", "picture": _painted(values, settings)})
    for path in made.beside:
        panels.append({"head": "uncertainty", "values": _values(path)[0], "map": "magma", "limits": (0, 1)})
    height, width = valid.shape[1:]
    each = 4.0 * min(max(width / height, 0.4), 2.5)
    figure, axes = new_figure(1, len(panels), width=each * len(panels) + 0.6, height=4.0 + 0.9)
    for axis, panel in zip(np.atleast_1d(axes).ravel(), panels, strict=True):
        axis.set_axis_off()
        axis.set_title(panel["head"])
        if "picture" in panel:
            axis.imshow(panel["picture"], interpolation="nearest")
            continue
        low, high = panel.get("limits", (None, None))
        drawn = axis.imshow(panel["values"], cmap=panel["map"], vmin=low, vmax=high, interpolation="nearest")
        figure.colorbar(drawn, ax=axis, shrink=0.8)
    if classes:
        class_legend(figure, classes, _palette(settings), unknown="no data")
    headline(figure, made.path.stem)
    return figure


def _scene(paths: Sequence[Path], settings: MapSettings) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return few pixels of each date, `(T, C, h, w)`, and where they have data, `(T, h, w)`."""
    from apps.remote_sensing.predict.scene import open_scene

    with open_scene(paths, settings) as source:
        return source.overview(_few(source.shape))


def _values(path: Path) -> NDArray[np.float32]:
    """Return few pixels of a map, NaN without data."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            size = _few(dataset.shape)
            values = dataset.read(out_shape=(dataset.count, *size), masked=True)
    return np.ma.filled(values.astype(np.float32), np.nan)


def _few(shape: tuple[int, int]) -> tuple[int, int]:
    factor = max(1.0, max(shape) / _SIDE)
    return max(1, round(shape[0] / factor)), max(1, round(shape[1] / factor))


def _colour(image: NDArray[np.float32], valid: NDArray[np.bool_], model: SceneModel) -> NDArray[np.float32]:
    from apps.remote_sensing.figures import composite

    return composite(np.nan_to_num(image), model.bands, valid=valid)


def _painted(values: NDArray[np.float32], settings: MapSettings) -> NDArray[np.float32]:
    """Return classes, or the likeliest class of scores, in their colours."""
    known = np.isfinite(values).all(axis=0)
    classes = np.nan_to_num(values)[0] if len(values) == 1 else np.nan_to_num(values).argmax(axis=0)
    picture = np.asarray(_palette(settings), np.float32)[classes.astype(int)] / 255
    picture[~known] = 0.85
    return picture


def _palette(settings: MapSettings) -> Sequence[tuple[int, int, int]]:
    from apps.remote_sensing.figures import class_colours

    return settings.colours or class_colours(settings.names)


def _ours(path: Path) -> bool:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return picture.info.get("Software") == _MARK
    except (UnidentifiedImageError, OSError):
        return False
