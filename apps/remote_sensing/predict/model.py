"""From tiles in a file's units to maps: a trained network with all that its checkpoint knows of the data.

`SceneModel.from_checkpoint` gives the class of the answers that the network was trained for: classes, several
labels, numbers, filled gaps, or features alone.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from apps.remote_sensing.batch import SceneFacts
from apps.remote_sensing.data.normalisation import Normalisation
from core.checkpoints.weights import network_from
from core.errors import UserError
from core.inference.predictor import Predictor
from core.objectives.masked_autoencoding import token_mask

if TYPE_CHECKING:
    from apps.remote_sensing.predict.fitting import Found
    from apps.remote_sensing.predict.settings import MapSettings

__all__ = ["ClassesModel", "FilledModel", "LabelsModel", "NumbersModel", "SceneModel"]


class SceneModel(Predictor[SceneFacts]):
    """A network that takes tiles as they are read; this class gives features alone, its subclasses answers.

    On CUDA it computes in bfloat16. For the arguments see `Predictor`.

    Attributes:
        bands: Of one date, in the network's order.
        frames: Dates.
        channels: Names of what it gives: the classes, or what the numbers are called.
    """

    facts_type = SceneFacts
    gives_maps: ClassVar[bool] = False
    """Whether there are answers that can be mapped."""
    numbers: ClassVar[bool] = False
    """Whether these are numbers and no classes."""
    needs: ClassVar[Literal["all", "any"]] = "all"
    """Whether a pixel needs data at all dates."""

    def __init__(self, networks: nn.Module | Sequence[nn.Module], facts: Any, **how: Any) -> None:
        super().__init__(networks, facts, **how)
        facts = self.facts
        self.bands, self.frames = facts.bands, facts.frames
        self.dates: tuple[date, ...] | None = None
        self.location: tuple[float, float] | None = None
        order = self._mixed(facts.order)
        count = len(self.bands)
        owners = [[band] for band in range(count)]  # whose numbers normalise each band and date
        self._order = order
        if order is not None:
            owners = [
                [order[date * count + band] % count for date in range(self.frames)] for band in range(count)
            ]
        rows = torch.tensor(owners)
        self.normalisation = Normalisation(
            torch.tensor(facts.mean, dtype=torch.float64)[rows],
            torch.tensor(facts.std, dtype=torch.float64)[rows],
            scale=facts.scale, fill=facts.fill, fill_before=facts.fill_before, device=self.device,
        )  # fmt: skip
        self._digest, self._checked = "", False
        self.said: set[str] = set()  # notes on scenes, each told once

    @classmethod
    def from_checkpoint(cls, path: Any, *, device: str | torch.device = "cpu", **settings: Any) -> SceneModel:
        """Return the model of one of our checkpoints, of the class of its answers.

        Raises:
            UserError: If it is missing, damaged, of another domain, or does not say how its images were read.
        """
        facts, record = cls._read(str(path))
        kind = _ANSWERS.get(facts.kind, cls) if cls is SceneModel else cls
        network = network_from(str(path))
        return kind(network, facts, names=[str(path)], records=[record], device=device, **settings)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of what it gives."""
        return self.facts.classes or (self.facts.quantity,)

    @property
    def whole(self) -> bool:
        """Whether the network says something of whole images and not of pixels."""
        from apps.remote_sensing.models.labeller import Labeller

        return self.facts.kind in ("classification", "multilabel") or isinstance(self.network, Labeller)

    def reads(self, name: str) -> bool:
        """Return whether the network's encoder has a code of `time` or `location`, and was told them."""
        from apps.remote_sensing.models.frozen.pooled_features import encoder_of

        told = bool(getattr(self.facts.coordinates, name))
        return told and getattr(encoder_of(self.network), f"{name}_code", None) is not None

    def check_maps(self) -> None:
        """Refuse a network that was not trained for maps or labels.

        Raises:
            UserError: With what it is for.
        """
        if not self.gives_maps:
            raise UserError(
                f"checkpoint {self.name} is of {self.facts.kind.replace('_', ' ')}, which gives no map; use "
                "`dfm remote-sensing embed` for its features, or fine-tune it first"
            )

    def check_gaps(self, gaps: str | None) -> None:
        """Refuse a mask of gaps for a network that fills none.

        Raises:
            UserError: With what it is for.
        """
        if gaps:
            raise UserError(f"--gaps is for networks that fill gaps, and this one is for {self.facts.kind}")

    def tile_side(self, side: int, *, asked: bool) -> int:
        """Return the side of tiles that the network takes: the given one, or the nearest if nobody asked.

        Raises:
            UserError: If it was asked for and does not fit.
        """
        return side

    def for_scene(
        self, settings: MapSettings, scene: Found, path: Path, *, nodata: float | None
    ) -> MapSettings:
        """Return the settings with what the map takes over from the scene.

        Args:
            settings: Of all scenes.
            scene: What was found of this one.
            path: Its first file.
            nodata: What the user wants where there is no data.

        Raises:
            UserError: If the scene does not say what is needed.
        """
        return settings

    def at(self, *, dates: Sequence[date] | None, location: tuple[float, float] | None) -> SceneModel:
        """Return the same model for a scene of these dates and of this latitude and longitude."""
        self._digest = self._digest or _digest(self.network, self.facts)
        other = copy.copy(self)
        other._checked = False
        other.dates, other.location = tuple(dates) if dates else None, location
        return other

    def fingerprint(self) -> str:
        """Return what tells these weights, and what they are told of the scene, from others."""
        told = [str(day) for day in self.dates or ()] if self.facts.coordinates.time else []
        told += (
            [f"{degrees:.6f}" for degrees in self.location or ()] if self.facts.coordinates.location else []
        )
        return " ".join([self._digest or _digest(self.network, self.facts), *told])

    def __call__(self, tiles: Tensor) -> Tensor:
        """Map tiles to probabilities of the classes, or to numbers.

        Args:
            tiles: `(B, T * C, h, w)` float32 in the file's units, a date's bands together; NaN without data.

        Returns:
            `(B, K, h, w)` float32, `(B, K)` for networks that name whole images.
        """
        images = self.images(tiles)
        with self.autocast():
            out = self.network(images, **self.told(len(images)))
        out = out.float()
        if out.ndim == 4 and out.shape[-2:] != tiles.shape[-2:]:
            out = F.interpolate(out, tiles.shape[-2:], mode="bilinear", align_corners=False)
        return self.answers(out)

    def answers(self, out: Tensor) -> Tensor:
        """Return what the network's output `(B, K, …)` means."""
        raise UserError(f"{self.name} gives features and no answers; fine-tune it first")

    def columns(self) -> tuple[str, ...]:
        """Return the columns of a table of tiles that it names as a whole."""
        return self.channels

    def row(self, score: NDArray[np.float32]) -> list[Any]:
        """Return the values of these columns for a tile's answers `(K,)`."""
        return [float(value) for value in score]

    def images(self, tiles: Tensor) -> Tensor:
        """Return what the network is given for tiles: normalised, and resized if it was trained so."""
        image, side = self.normalised(tiles), self.facts.resize
        if side is None or image.shape[-2:] == (side, side):
            return image
        from apps.remote_sensing.models.frozen.resizing import resize

        return resize(image, (side, side))

    def autocast(self) -> torch.autocast:
        """Return the context that the network runs in: bfloat16 on CUDA."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def normalised(self, tiles: Tensor) -> Tensor:
        """Return images `(B, C, T, h, w)` as the network was trained on, of tiles in the file's units.

        Raises:
            UserError: If the tiles have another number of bands.
        """
        bands, frames = len(self.bands), self.frames
        if tiles.shape[1] != bands * frames:
            raise UserError(
                f"tiles have {tiles.shape[1]} bands; the network takes {frames} dates of {bands} bands"
            )
        tiles = tiles.to(self.device, torch.float32)
        if self._order is not None:
            tiles = tiles[:, self._order]
        images = tiles.unflatten(1, (frames, bands)).transpose(1, 2).clone()  # B TC h w -> B C T h w
        if not self._checked:
            self._checked = self.check_units(images)
        return self.normalisation(images, images.isnan().any(dim=1, keepdim=True))

    def check_units(self, images: Tensor) -> bool:
        """Refuse the first images of a scene whose numbers cannot be in the units of the training's."""
        return self.normalisation.check(
            images, self.bands, what="the scene's images",
            advice=f"give {self.name} scenes in the units that it was trained on",
        )  # fmt: skip

    def _mixed(self, order: Sequence[Sequence[int]] | None) -> list[int] | None:
        """Return which channel of a tile each date and band was in training; None is the right order."""
        if order is None:
            return None
        if min(band for _, band in order) < 0:
            raise UserError(
                f"checkpoint {self.name} was trained on some of the bands of mixed-up files, and such maps "
                "cannot be made; train it with the order right"
            )
        return [date * len(self.bands) + band for date, band in order]

    def told(self, count: int) -> dict[str, Tensor]:
        """Return `time` and `location` for so many tiles, as far as they are known and used."""
        coordinates, told = self.facts.coordinates, {}
        if coordinates.time and self.dates is not None:
            told["time"] = self._each([coordinates.days(self.dates)], count)
        if coordinates.location and self.location is not None:
            told["location"] = self._each([coordinates.degrees(*self.location)], count)
        return told

    def _each(self, values: Any, count: int) -> Tensor:
        one = torch.tensor(values, dtype=torch.float32, device=self.device)
        return one.expand(count, *one.shape[1:])


class ClassesModel(SceneModel):
    """A network that gives logits of classes: of pixels, of changes, or of whole images."""

    gives_maps = True

    def answers(self, out: Tensor) -> Tensor:
        """Return calibrated probabilities; of one logit those of both classes."""
        out = out / self.facts.temperature
        if out.shape[1] == 1:
            second = out.sigmoid()
            return torch.cat([1 - second, second], dim=1)
        return out.softmax(dim=1)

    def columns(self) -> tuple[str, ...]:
        """Return the columns of a table of tiles."""
        return ("class", "probability", *self.channels)

    def row(self, score: NDArray[np.float32]) -> list[Any]:
        """Return the likeliest class, its probability, and all of them."""
        best = int(score.argmax())
        return [self.channels[best], float(score[best]), *super().row(score)]


class LabelsModel(SceneModel):
    """A network that gives logits of several labels of whole images."""

    gives_maps = True
    numbers = True

    def answers(self, out: Tensor) -> Tensor:
        """Return the calibrated probability of each label."""
        return (out / self.facts.temperature).sigmoid()

    def columns(self) -> tuple[str, ...]:
        """Return the columns of a table of tiles."""
        return ("labels", *self.channels)

    def row(self, score: NDArray[np.float32]) -> list[Any]:
        """Return the labels above one half, and the probabilities of all."""
        named = [name for name, value in zip(self.channels, score, strict=True) if float(value) > 0.5]
        return [";".join(named), *super().row(score)]


class NumbersModel(SceneModel):
    """A network that gives numbers, in deviations of the training labels."""

    gives_maps = True
    numbers = True

    @property
    def channels(self) -> tuple[str, ...]:
        """What the numbers are called."""
        return (self.facts.quantity,)

    def answers(self, out: Tensor) -> Tensor:
        """Return numbers in the labels' units."""
        return out * self.facts.label_std + self.facts.label_mean


class FilledModel(SceneModel):
    """A masked autoencoder that fills what clouds hide; what is visible stays bit for bit as it is."""

    gives_maps = True
    numbers = True
    needs = "any"

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the bands of the filled scene, those of a date together."""
        if self.frames == 1:
            return self.bands
        return tuple(f"{band}_{date + 1}" for date in range(self.frames) for band in self.bands)

    def check_gaps(self, gaps: str | None) -> None:
        """Take any mask."""

    def tile_side(self, side: int, *, asked: bool) -> int:
        """Return the side of tiles of whole patches."""
        patch = self._patch
        if not asked:
            step = math.lcm(*patch[1:])
            return max(side // step, 1) * step
        if any(side % size for size in patch[1:]):
            raise UserError(
                f"a tile of {side} pixels is no multiple of the network's patch, {patch[1]} x {patch[2]}; "
                "give another --tile"
            )
        return side

    def for_scene(
        self, settings: MapSettings, scene: Found, path: Path, *, nodata: float | None
    ) -> MapSettings:
        """Return the settings of a map that keeps the scene's own numbers, with its dtype and nodata."""
        missing = scene.nodata if settings.missing is None else settings.missing
        if missing is None and not settings.gaps and scene.dtype[0] != "f":
            raise UserError(f"{path} says of no number that it is no data; give --nodata or --gaps MASK.tif")
        return replace(settings, keep=True, dtype=scene.dtype, nodata=nodata if missing is None else missing)

    @property
    def _patch(self) -> tuple[int, int, int]:
        network: Any = self.network
        return network.encoder.patch

    def __call__(self, tiles: Tensor) -> Tensor:
        """Fill tiles.

        Args:
            tiles: `(B, T * C, h, w)` float32 in the file's units, NaN without data; a mask of gaps may
                follow, `(B, 1 or T, h, w)`, not zero where a date is hidden.

        Returns:
            `(B, T * C, h, w)` float32; NaN where a tile shows no patch without a gap.
        """
        count = len(self.bands) * self.frames
        tiles = tiles.to(self.device, torch.float32)
        images, mask = tiles[:, :count], tiles[:, count:]
        split = images.unflatten(1, (self.frames, len(self.bands)))  # B TC h w -> B T C h w
        hidden = split.isnan().any(dim=2)
        if mask.shape[1]:
            hidden = hidden | (mask != 0)
        gaps = hidden[:, None]
        patches = token_mask(gaps, self._patch)
        made = torch.full_like(split, torch.nan)
        rows = (patches.any(1) & ~patches.all(1)).nonzero().flatten()
        if len(rows):
            filled = self._filled(images[rows], gaps[rows])
            made[rows] = filled.transpose(1, 2)  # B C T h w -> B T C h w
        return torch.where(hidden[:, :, None], made, split).flatten(1, 2)

    def _filled(self, tiles: Tensor, gaps: Tensor) -> Tensor:
        """Return predictions `(B, C, T, h, w)` in the file's units for tiles that show some patch."""
        image = self.normalised(tiles)
        with self.autocast():
            made = self.network(image, **self.told(len(image)), gaps=gaps)
        network: Any = self.network
        image = network.image(made.prediction.float(), made.grid)
        return self.normalisation.undone(image)


_ANSWERS: dict[str, type[SceneModel]] = {
    "segmentation": ClassesModel,
    "change": ClassesModel,
    "classification": ClassesModel,
    "multilabel": LabelsModel,
    "regression": NumbersModel,
    "gap_filling": FilledModel,
}
"""The class of a network's answers by what it was trained for; all others give features alone."""


def _digest(network: nn.Module, facts: SceneFacts) -> str:
    """Return a checksum of a network's weights and of what is known of its data."""
    sha = hashlib.sha256(repr(facts).encode())
    for name, tensor in sorted(network.state_dict().items()):
        if isinstance(tensor, Tensor):
            sha.update(name.encode())
            sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()[:16]
