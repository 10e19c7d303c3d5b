"""Features of tiles: one vector for each, or an image of them on the grid of patches."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from apps.remote_sensing.batch import Coordinates, SceneFacts
from apps.remote_sensing.data.normalisation import check_units
from apps.remote_sensing.models.downstream.encoder_features import feature_maps, patches_of_dates
from apps.remote_sensing.models.frozen.pooled_features import encoder_of
from apps.remote_sensing.models.labeller import Labeller
from apps.remote_sensing.predict.model import SceneModel
from core.errors import UserError, did_you_mean

__all__ = ["SIZES", "Embedder", "WeightsModel"]

SIZES = ("apps.remote_sensing.models.prithvi", "apps.remote_sensing.models.softcon")
"""Modules whose named sizes `--network` knows by their mere name."""


class Embedder:
    """Pools what an encoder makes of images.

    Args:
        network: An encoder, or a network that holds one.
        pool: As of `apps.remote_sensing.models.labeller.Labeller`: `mean`, `max` or `class`.

    Attributes:
        step: Pixels of an image for each of its features, along rows and columns.

    Raises:
        UserError: If the network has no encoder, or `pool` is unknown.
    """

    def __init__(self, network: nn.Module, pool: str = "mean") -> None:
        encoder = encoder_of(network)
        encoder = getattr(encoder, "backbone", encoder)
        device = next(encoder.parameters()).device
        self._pooled = Labeller(encoder, outputs=1, pool=pool).to(device).eval()  # type: ignore[arg-type]
        self.step, self.pool = self._pooled.multiple, pool

    @torch.inference_mode()
    def vectors(self, model: SceneModel, tiles: Tensor) -> NDArray[np.float32]:
        """Return one vector for each tile, `(B, D)`.

        Args:
            model: Told of the scene; it normalises.
            tiles: As of `SceneModel`.
        """
        images = model.images(tiles)
        with model.autocast():
            found = self._pooled.features(images, **model.told(len(images)))
        return found.float().cpu().numpy()

    @torch.inference_mode()
    def maps(self, model: SceneModel, tiles: Tensor) -> NDArray[np.float32]:
        """Return features of patches `(B, D, h, w)`, their mean over dates; for the arguments see `vectors`.

        Raises:
            UserError: If tiles are no whole patches.
        """
        images, encoder = model.images(tiles), self._pooled.encoder
        if any(size % step for size, step in zip(images.shape[-2:], self.step, strict=True)):
            raise UserError(
                f"images of {images.shape[-2]} x {images.shape[-1]} pixels are no whole patches of "
                f"{self.step[0]} x {self.step[1]}; give another --tile"
            )
        with model.autocast():
            told: dict[str, Any] = {"time": None, "location": None} | model.told(len(images))
            (found,) = feature_maps(encoder, images, layers=[-1], apart=False, **told)
        slots = patches_of_dates(encoder, images.shape[2])
        return found.float().unflatten(1, (slots, -1)).mean(1).cpu().numpy()  # B (T D) h w -> B D h w


class WeightsModel(SceneModel):
    """Published weights, with the preparation of images that is bound to them.

    Args:
        network: Says its `bands`, and how its images were normalised.
        reflectance: What a reflectance of 1 is in the files; None: as in the images it was trained on.
        device: As of `SceneModel`.
        name: As of `SceneModel`.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        reflectance: float | None = None,
        device: str | torch.device = "cpu",
        name: str = "the weights",
    ) -> None:
        from apps.remote_sensing.models.frozen.inputs import OfWeights, prepared_for

        encoder = encoder_of(network)
        bands = list(getattr(encoder, "bands", ()))
        if not bands:
            raise UserError(f"{type(encoder).__name__} does not say which bands it reads")
        image = getattr(encoder, "image", None) or getattr(encoder, "resolution", None)
        count = len(bands)
        facts = SceneFacts(
            bands=tuple(bands),
            mean=(0.0,) * count,
            std=(1.0,) * count,
            frames=int(getattr(encoder, "frames", 1)),
            fill=float(getattr(encoder, "fill", 0.0)),
            coordinates=Coordinates(
                time=getattr(encoder, "time_code", None) is not None,
                location=getattr(encoder, "location_code", None) is not None,
            ),
            window=max(image) if isinstance(image, tuple | list) else image,
        )
        super().__init__(network, facts, names=[name], device=device)
        choice = OfWeights(reflectance=reflectance)
        self._reflectance = reflectance
        self._prepared = prepared_for(encoder, replace(facts, mean=(), std=()), choice=choice, run=None)

    def fingerprint(self) -> str:
        """Return what tells these weights, their unit and what they are told of the scene from others."""
        return f"{super().fingerprint()} {self._reflectance}"

    @classmethod
    def from_weights(
        cls,
        weights: str | os.PathLike[str],
        size: str | None,
        *,
        reflectance: float | None = None,
        device: str | torch.device = "cpu",
    ) -> WeightsModel:
        """Return the model of a file, a card or a hub repository.

        Args:
            weights: As of `core.checkpoints.weights.load_weights`.
            size: The network: a named size such as `prithvi_v2_100m_tl`, or an import path; None is what the
                weights say of themselves.
            reflectance: See the class.
            device: See the class.

        Raises:
            UserError: If there is no such size, or the weights do not fit it.
        """
        from core.checkpoints.weights import load_weights, network_from

        if size is None:
            network = network_from(weights)
        else:
            network = _built(size)
            load_weights(weights, network)
        return cls(network, reflectance=reflectance, device=device, name=str(weights))

    def check_units(self, images: Tensor) -> bool:
        """Refuse images in other units than those of the weights' preparation."""
        own = self._prepared.preparation
        usual = [abs(mean) + std for mean, std in zip(own.mean, own.std, strict=True)]
        if not usual and own.normalisation in ("divide", "clip") and own.divisor != 1:
            usual = [own.divisor] * len(self.bands)
        if not usual:
            return True
        level = torch.tensor(usual, device=images.device).view(-1, 1, 1, 1) / self._prepared.factor
        return check_units(
            images, level, self.bands, what="the scene's images",
            advice="give --reflectance, what a reflectance of 1 is in the files",
        )  # fmt: skip

    def normalised(self, tiles: Tensor) -> Tensor:
        """Return images as the weights were trained on; see `SceneModel.normalised`."""
        images = super().normalised(tiles)  # mean 0 and deviation 1: numbers as they are
        bands = tiles.to(self.device).unflatten(1, (self.frames, len(self.bands)))  # B TC h w -> B T C h w
        return self._prepared.numbers(images, ~bands.isnan().any(dim=2))


def _built(size: str) -> nn.Module:
    from core.checkpoints.networks import instantiate

    described: Mapping[str, Any] = {"class_path": size, "init_args": {}}
    if "." not in size:
        known = {name: module for module in SIZES for name in _names(module)}
        if size not in known:
            raise UserError(
                f"--network {size} is no named size{did_you_mean(size, known)}; choose one of "
                f"{', '.join(known)}, or give an import path"
            )
        described = {"class_path": f"{known[size]}.{size}", "init_args": {}}
    return instantiate(described, where="--network")


def _names(module: str) -> list[str]:
    names = import_module(module).__all__
    return [name for name in names if name.islower() and name.startswith(("prithvi_", "softcon_"))]
