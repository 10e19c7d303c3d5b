"""Preparations that go with a set of weights, as recipes name them, and the images that they make.

The data module hands over stored numbers (`data.normalise=none`); size and numbers are changed here, once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from apps.remote_sensing.batch import SceneFacts
from apps.remote_sensing.models.frozen import resize_study as study
from apps.remote_sensing.models.frozen.resizing import (
    ImagePreparation,
    Preparation,
    arranged,
    preparation_for,
)
from core.data.checks import one_of
from core.errors import UserError

__all__ = ["OfRun", "OfStudy", "OfWeights", "Prepared", "is_normalised", "prepared_for"]

_FAR = 30.0  # deviations from the mean beyond which half the pixels cannot be: their units are others
_AT_ENDS = 0.95  # share of numbers that are cut off, beyond which nothing is left to see


@dataclass(frozen=True)
class OfWeights(ImagePreparation):
    """The preparation that the network says its published weights had.

    Args:
        size: Pixels of the shorter side; None is the size that the weights were trained at.
        reflectance: What a reflectance of 1 (or white) is in the data's numbers; None: as in the network's.

    Raises:
        UserError: If `reflectance` is not above 0.
    """

    size: int | None = None
    reflectance: float | None = None

    def __post_init__(self) -> None:
        if self.reflectance is not None and not 0 < self.reflectance < math.inf:
            raise UserError(
                f"reflectance is {self.reflectance}; it must be above 0, such as 10000 or 1: what a "
                "reflectance of 1 is in the files"
            )

    def preparation(self, network: nn.Module, bands: Sequence[str]) -> Preparation:
        """Return the network's own preparation."""
        if getattr(network, "normalisation", None) == "none":
            return Preparation(size=self.size)
        size = self.size or getattr(network, "image", None) or getattr(network, "resolution", None)
        own = preparation_for(network, size=size)
        if any(math.isnan(number) for number in own.mean):
            raise UserError(
                f"{type(network).__name__} has no statistics of some of its bands ({', '.join(bands)}); give "
                "model.preparation apps.remote_sensing.models.frozen.resizing.Preparation with mean and std"
            )
        return own

    def factor(self, network: nn.Module) -> float:
        """Return the network's unit of reflectance over the data's."""
        return 1.0 if self.reflectance is None else getattr(network, "scale", 1.0) / self.reflectance


@dataclass(frozen=True)
class OfStudy(ImagePreparation):
    """The preparation that the resize study found best for a kind of weights on one of its data sets.

    Args:
        weights: `imagenet`, `moco`, `seco`, `mosaiks`, `random` or `image_statistics`.
        data: A data set of the study, whose statistics and units these are: `eurosat`, `bigearthnet`, …
        size: Pixels of the shorter side instead of the study's choice.
        normalisation: `divide` or `standardise` instead of the study's choice.
    """

    weights: str = "imagenet"
    data: str = "eurosat"
    size: int | None = None
    normalisation: str | None = None

    def preparation(self, network: nn.Module, bands: Sequence[str]) -> Preparation:
        """Return the study's preparation for these bands; those that the data set lacks stay as they are."""
        rule, about = study.preparation(self.weights, self.data), study.DATA_SETS[self.data]
        if self.normalisation is not None:
            one_of(("divide", "standardise"), room="model.preparation", normalisation=self.normalisation)
            rule = Preparation(self.normalisation, size=rule.size, divisor=about.divisor)  # type: ignore[arg-type]
        if rule.normalisation == "standardise":
            mean, std = _by_band(about.bands, about.mean, about.std, bands)
            rule = replace(rule, mean=mean, std=std)
        return rule if self.size is None else replace(rule, size=self.size)


@dataclass(frozen=True)
class OfRun(ImagePreparation):
    """The normalisation of a run of our own, whose images its weights were trained on.

    Args:
        facts: Of its data, as its checkpoint holds them.
        scale: What this run's stored numbers are multiplied by.
    """

    facts: SceneFacts
    scale: float = 1.0

    def preparation(self, network: nn.Module, bands: Sequence[str]) -> Preparation:
        """Return the run's means and deviations, and the side to which it resized."""
        mean, std = _by_band(self.facts.bands, self.facts.mean, self.facts.std, bands)
        return Preparation("standardise", size=self.facts.resize, mean=mean, std=std)

    def factor(self, network: nn.Module) -> float:
        """Return the run's units over those of these data."""
        return self.facts.scale / self.scale


@dataclass(frozen=True)
class Prepared:
    """Makes images of the data module what a network sees.

    Args:
        preparation: Size and numbers.
        data_bands: Names of the data's bands.
        network_bands: Names of those that the network reads.
        factor: What the data's numbers are multiplied by first.
        fill: What pixels without data are in the end; None leaves them.
    """

    preparation: Preparation
    data_bands: tuple[str, ...]
    network_bands: tuple[str, ...]
    factor: float = 1.0
    fill: float | None = 0.0

    @property
    def absent(self) -> tuple[str, ...]:
        """Bands that the network wants and the data lack: they are zeros."""
        return tuple(band for band in self.network_bands if band not in self.data_bands)

    def __call__(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        """Map `(B, C, T, H, W)`, valid where `(B, T, H, W)` is true, to `(B, C', T, H', W')`."""
        x, rule = images, self.preparation
        if self.data_bands != self.network_bands:
            x = arranged(x, given=self.data_bands, wanted=self.network_bands)
        x = rule(x if self.factor == 1.0 else x * self.factor)
        if valid is None or self.fill is None or rule.normalisation == "none":
            return x
        only_size = Preparation(size=rule.size, crop=rule.crop)
        return torch.where(only_size(valid[:, None].float()) > 0.5, x, self.fill)  # B 1 T H W

    def numbers(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return the same with the size left as it is."""
        whole = replace(self, preparation=replace(self.preparation, size=None, crop=None))
        return whole(images, valid)

    def check_units(self, images: Tensor) -> None:
        """Refuse images whose numbers, prepared, are nothing that weights can have been trained on.

        Raises:
            UserError: If nearly all are alike or far from their mean.
        """
        if self.preparation.normalisation == "none":
            return
        sample = images[..., ::4, ::4]
        spread, middle = float(sample.std()), float(sample.abs().median())
        cut = self.preparation.normalisation in ("clip", "eight_bit")
        ends = float(((sample <= 0) | (sample >= 1)).float().mean()) if cut else 0.0
        if spread < 1e-4 or middle > _FAR or ends > _AT_ENDS:
            what = (
                f"{100 * ends:.0f} % of the images' numbers are cut off"
                if ends > _AT_ENDS
                else f"the images have a deviation of {spread:.3g} and a median size of {middle:.3g}"
            )
            raise UserError(
                f"after {self.preparation.normalisation} {what}: their units are not the preparation's; give "
                "model.preparation apps.remote_sensing.models.frozen.inputs.OfWeights with reflectance, what "
                "a reflectance of 1 is in the files"
            )


def prepared_for(
    network: nn.Module, facts: SceneFacts, *, choice: ImagePreparation | None, run: SceneFacts | None
) -> Prepared:
    """Return what is done to the data's images before a network sees them.

    Args:
        network: The encoder.
        facts: Of the data module.
        choice: As the recipe names it; None is the run's that trained the weights, else the network's own.
        run: Facts of the data of that run of ours, if the weights are such.

    Raises:
        UserError: If the images would be normalised twice, or the preparation cannot be told.
    """
    data_bands = tuple(facts.bands)
    network_bands = tuple(getattr(network, "bands", data_bands))
    if not set(data_bands) & set(network_bands) and len(data_bands) == len(network_bands):
        data_bands = network_bands  # the network's bands have numbers instead of names
    if choice is None:
        choice = OfRun(run, facts.scale) if run is not None and is_normalised(run) else OfWeights()
    preparation = choice.preparation(network, network_bands)
    if preparation.normalisation != "none" and is_normalised(facts):
        raise UserError(
            "the data module normalises the images and the preparation of the weights would do it again "
            f"({preparation.normalisation}); give --data.normalise=none, or --model.preparation "
            "apps.remote_sensing.models.frozen.resizing.Preparation to keep the data module's"
        )
    fill = choice.facts.fill if isinstance(choice, OfRun) else getattr(network, "fill", 0.0)
    return Prepared(preparation, data_bands, network_bands, choice.factor(network), float(fill))


def _by_band(
    names: Sequence[str], mean: Sequence[float], std: Sequence[float], wanted: Sequence[str]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the statistics of the wanted bands; those that have none stay as they are."""
    numbers = dict(zip(names, zip(mean, std, strict=True), strict=True))
    means, stds = zip(*(numbers.get(band, (0.0, 1.0)) for band in wanted), strict=True)
    return means, stds


def is_normalised(facts: SceneFacts) -> bool:
    """Tell from a data module's facts whether it changes stored numbers by mean and deviation."""
    return any(facts.mean) or any(number != 1 for number in facts.std)
