"""From tiles in a file's units to maps: a trained network with all that its checkpoint knows of the data."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError

if TYPE_CHECKING:
    from apps.remote_sensing.predict.fitting import Found, Wanted
    from apps.remote_sensing.predict.settings import MapSettings

__all__ = ["KINDS", "SceneModel", "fitted"]

KINDS = ("segmentation", "change", "regression", "classification", "multilabel", "gap_filling")
"""What a checkpoint may have been trained for that gives a map."""

_NEEDED = ("bands", "frames", "scale", "mean", "std")


class SceneModel:
    """A network that takes tiles as they are read and gives probabilities or numbers, see `scenes.mapping`.

    Args:
        network: Called with images `(B, C, T, H, W)` and, where `facts` say so, `time` and `location`.
        facts: What the data module of its training knew (`Scenes.facts`), and the `kind` of its task.
        device: Where to compute; on CUDA in bfloat16.
        name: What messages call it.

    Attributes:
        kind: What it was trained for, one of `KINDS` if it gives maps.
        names: The classes, or what the numbers are called.
        bands: Of one date, in the network's order.
        frames: Dates.
        window: Side of the training windows in pixels of the file, or None if the checkpoint does not say.

    Raises:
        UserError: If the facts are incomplete.
    """

    def __init__(
        self,
        network: nn.Module,
        facts: Mapping[str, Any],
        *,
        device: str | torch.device = "cpu",
        name: str = "the network",
    ) -> None:
        if lacking := [key for key in _NEEDED if key not in facts]:
            raise UserError(
                f"checkpoint {name} does not say how its images were read ({', '.join(lacking)}); give one "
                "that `dfm remote-sensing fit` wrote"
            )
        self.network, self.facts, self.name = network.to(device).eval(), dict(facts), name
        self.device = torch.device(device)
        self.kind = str(facts.get("kind") or "features")
        self.bands, self.frames = tuple(facts["bands"]), int(facts["frames"])
        classes = () if self.kind == "regression" else tuple(facts.get("classes") or ())
        self.names = classes or (str(facts.get("quantity") or "value"),)
        self.sensor = facts.get("sensor")
        self.window = int(facts["window"]) if facts.get("window") else None
        self.dates: tuple[date, ...] | None = None
        self.place: tuple[float, float] | None = None
        mean, std = (torch.tensor(list(facts[key]), dtype=torch.float64) for key in ("mean", "std"))
        scale = float(facts["scale"])
        shape = (-1, 1, 1, 1)
        self._offset = (mean / scale).float().view(shape).to(self.device)
        self._factor = (scale / std).float().view(shape).to(self.device)
        self._fill, self._before = float(facts.get("fill", 0.0)), bool(facts.get("fill_before"))
        self._scale, self._resize = scale, facts.get("resize")
        self._order = self._mixed(facts.get("order"))
        self._digest, self._checked = "", False
        self.said: set[str] = set()  # notes on scenes, each told once

    @classmethod
    def from_checkpoint(
        cls, path: str | os.PathLike[str], *, device: str | torch.device = "cpu"
    ) -> SceneModel:
        """Return the model of one of our checkpoints.

        Raises:
            UserError: If it is missing, damaged, of another domain, or does not say how its images were read.
        """
        from core.checkpoints.files import read_outline
        from core.checkpoints.weights import network_from

        if not Path(path).exists():
            raise UserError(f"checkpoint {path} does not exist; `dfm checkpoint list` shows what there is")
        content = read_outline(path)
        facts = (content.get("state_dict") or {}).get("normaliser._extra_state") or {}
        if "bands" not in facts:
            raise UserError(
                f"checkpoint {path} knows of no bands, so it is none of remote sensing; give one that "
                "`dfm remote-sensing fit` wrote"
            )
        kind = cls
        if cls is SceneModel and facts.get("kind") == "gap_filling":
            from apps.remote_sensing.predict.gap_model import GapModel

            kind = GapModel
        return kind(network_from(str(path)), facts, device=device, name=str(path))

    @property
    def whole(self) -> bool:
        """Whether the network says something of whole images and not of pixels."""
        from apps.remote_sensing.models.labeller import Labeller

        return self.kind in ("classification", "multilabel") or isinstance(self.network, Labeller)

    def reads(self, name: str) -> bool:
        """Return whether the network's encoder has a code of `time` or `location`."""
        from apps.remote_sensing.models.frozen.features import encoder_of

        return getattr(encoder_of(self.network), f"{name}_code", None) is not None

    def check_maps(self) -> None:
        """Refuse a network that was not trained for maps or labels.

        Raises:
            UserError: With what it is for.
        """
        if self.kind not in KINDS:
            raise UserError(
                f"checkpoint {self.name} is of {self.kind.replace('_', ' ')}, which gives no map; use "
                "`dfm remote-sensing embed` for its features, or fine-tune it first"
            )

    def at(self, *, dates: Sequence[date] | None, place: tuple[float, float] | None) -> SceneModel:
        """Return the same model for a scene of these dates and of this latitude and longitude."""
        self._digest = self._digest or digest(self.network, self.facts)
        other = copy.copy(self)
        other._checked = False
        other.dates, other.place = tuple(dates) if dates else None, place
        return other

    def fingerprint(self) -> str:
        """Return what tells these weights, and what they are told of the scene, from others."""
        told = [str(day) for day in self.dates or ()] if self.timed else []
        told += [f"{degrees:.6f}" for degrees in self.place or ()] if self.placed else []
        return " ".join([self._digest or digest(self.network, self.facts), *told])

    @property
    def timed(self) -> bool:
        """Whether the network is told dates."""
        return bool(self.facts.get("time"))

    @property
    def placed(self) -> bool:
        """Whether the network is told places."""
        return bool(self.facts.get("location"))

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
        if self.kind == "regression":
            return out * float(self.facts.get("label_std", 1.0)) + float(self.facts.get("label_mean", 0.0))
        out = out / float(self.facts.get("temperature", 1.0))
        if self.kind == "multilabel":
            return out.sigmoid()
        if out.shape[1] == 1:
            second = out.sigmoid()
            return torch.cat([1 - second, second], dim=1)
        return out.softmax(dim=1)

    def images(self, tiles: Tensor) -> Tensor:
        """Return what the network is given for tiles: normalised, and resized if it was trained so."""
        image = self.normalised(tiles)
        if self._resize is None or image.shape[-2:] == (self._resize, self._resize):
            return image
        from apps.remote_sensing.models.frozen.resizing import resize

        return resize(image, (self._resize, self._resize))

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
        offset, factor = self._offset, self._factor
        if self._order is not None:
            # each number is normalised as the band that it truly is
            tiles = tiles[:, self._order]
            owners = torch.tensor(self._order, device=self.device).remainder(bands).view(frames, bands).T
            offset, factor = (one[owners.flatten()].view(bands, frames, 1, 1) for one in (offset, factor))
        image = tiles.unflatten(1, (frames, bands)).transpose(1, 2).clone()  # B TC h w -> B C T h w
        self._check_units(image, offset.abs() + 1 / factor)
        lost = image.isnan().any(dim=1, keepdim=True)
        some = bool(lost.any())
        if some and self._before:
            image = torch.where(lost, self._fill / self._scale, image)
        image = image.sub_(offset).mul_(factor)
        if some and not self._before:
            image = torch.where(lost, self._fill, image)
        return image

    def _check_units(self, images: Tensor, level: Tensor) -> None:
        """Refuse the first images of a scene whose numbers cannot be in the units of the training's."""
        if not self._checked:
            from apps.remote_sensing.data.units import check_units

            self._checked = check_units(
                images, level, self.bands, what="the scene's images",
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
        known = {"time": self._time(count), "location": self._location(count)}
        return {name: value for name, value in known.items() if value is not None}

    def _time(self, count: int) -> Tensor | None:
        if not self.timed or self.dates is None:
            return None
        first = int(self.facts.get("first_day", 1))
        rows = [(float(day.year), float(day.timetuple().tm_yday - 1 + first)) for day in self.dates]
        return torch.tensor([rows], dtype=torch.float32, device=self.device).expand(count, -1, -1)

    def _location(self, count: int) -> Tensor | None:
        if not self.placed or self.place is None:
            return None
        place = self.place[::-1] if self.facts.get("longitude_first") else self.place
        return torch.tensor([place], dtype=torch.float32, device=self.device).expand(count, -1)


def fitted(
    paths: Sequence[Path], model: SceneModel, settings: MapSettings, wanted: Wanted
) -> tuple[SceneModel, MapSettings, Found]:
    """Return the model told of a scene, and the settings that read this scene's bands for it.

    Raises:
        UserError: If the scene does not fit.
    """
    from apps.remote_sensing.predict.fitting import found

    scene = found(paths, wanted)
    scene.tell(paths[0], model.said)
    here = model.at(dates=scene.dates, place=scene.place)
    how = replace(settings, bands=scene.bands, band_names=scene.names, model=here.fingerprint())
    if how.missing is None and scene.nodata is None and model.facts.get("nodata") is not None:
        how = replace(how, missing=float(model.facts["nodata"]))  # as the reader of the training data took it
    return here, how, scene


def digest(network: nn.Module, facts: Mapping[str, Any]) -> str:
    """Return a checksum of a network's weights and of what is known of its data."""
    sha = hashlib.sha256(repr(sorted(facts.items())).encode())
    for name, tensor in sorted(network.state_dict().items()):
        if isinstance(tensor, Tensor):
            sha.update(name.encode())
            sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()[:16]
