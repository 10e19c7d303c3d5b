"""Features of an encoder's layers, and images that fit it: whole patches, dates together or alone.

The shapes of layers are what the encoder says in `layer_shapes`, or are found on the meta device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from apps.remote_sensing.models.frames import frame_by_frame, joined
from core.errors import UserError

__all__ = [
    "EncoderLayer",
    "check_encoder",
    "chosen_layers",
    "dates_of_a_patch",
    "feature_maps",
    "freeze_idle",
    "layers_of",
    "patches_of_dates",
    "reflected",
    "with_dates",
]

_ONE_VALUE = "more than 1 value per channel"
_WANTED = "such as Prithvi, SoftConViT, SoftConResNet50 or AnyBackbone"


@dataclass(frozen=True)
class EncoderLayer:
    """Shape of what one layer gives.

    Args:
        number: Of the layer.
        channels: Of its features of one date.
        stride: Pixels of the image for each pixel of its features, along rows and columns.
    """

    number: int
    channels: int
    stride: tuple[int, int]


def check_encoder(encoder: nn.Module, *, where: str) -> None:
    """Refuse what gives no maps of features."""
    if not callable(getattr(encoder, "feature_maps", None)):
        raise UserError(
            f"{where} needs an encoder with feature_maps(), {_WANTED}; {type(encoder).__name__} has none"
        )


def layers_of(encoder: nn.Module, numbers: Sequence[int]) -> list[EncoderLayer]:
    """Return what layers give.

    Args:
        encoder: On any device.
        numbers: Of the layers, from 0, or from -1 at the end.

    Raises:
        UserError: If there is no such layer.
    """
    known = getattr(encoder, "layer_shapes", None)
    if known is None:
        return _computed(encoder, numbers)
    for number in numbers:
        if not -len(known) <= number < len(known):
            raise UserError(
                f"layers name {number}; {type(encoder).__name__} has {len(known)}, 0 to {len(known) - 1}"
            )
    return [EncoderLayer(number, known[number][0], known[number][1:]) for number in numbers]


def chosen_layers(
    encoder: nn.Module, layers: Sequence[int] | None, *, wanted: int, where: str
) -> list[EncoderLayer]:
    """Return the layers that a decoder takes.

    Without a choice that is the last one, or four: at each quarter of a plain transformer's depth, or one for
    each of the four coarsest sizes that a pyramid has.

    Args:
        encoder: What gives them.
        layers: The user's choice.
        wanted: How many.
        where: The decoder's name, for errors.

    Raises:
        UserError: If a layer does not exist, or there are not as many as the decoder takes.
    """
    if layers is not None:
        if len(layers) != wanted:
            raise UserError(
                f"{where} takes {wanted} layer(s) of the encoder, and layers is {list(layers)}; name {wanted}"
            )
        return layers_of(encoder, layers)
    if wanted == 1:
        return layers_of(encoder, [-1])
    count = _count(encoder)
    if count < wanted:
        raise UserError(
            f"{where} takes {wanted} layers, and {type(encoder).__name__} has {count}; choose a deeper "
            "encoder or a decoder of one layer, such as FCN"
        )
    outputs = layers_of(encoder, range(count))
    coarsest = {layer.stride: layer for layer in outputs}  # the last one of each size
    if len(coarsest) == 1:
        return [outputs[count * part // wanted - 1] for part in range(1, wanted + 1)]
    if len(coarsest) < wanted:
        raise UserError(
            f"{where} takes {wanted} layers, and {type(encoder).__name__} has {len(coarsest)} sizes of "
            f"features; name {wanted} of its {count} layers under layers"
        )
    return list(coarsest.values())[-wanted:]


def freeze_idle(encoder: nn.Module, numbers: Sequence[int]) -> None:
    """Take the gradient from parameters that feature maps are not made of, as a norm before a classifier is.

    Ranks that train together wait for every parameter that has one.

    Args:
        encoder: What gives the maps.
        numbers: Of the layers that are used.
    """
    known = getattr(encoder, "layer_shapes", None)
    if known is not None and any(number % len(known) == len(known) - 1 for number in numbers):
        return  # every part of these is behind the last layer's map
    maps, parameters = _on_meta(encoder, numbers)
    used: set[int] = set()
    seen: set[Any] = set()
    waiting = [features.grad_fn for features in maps]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            used.add(id(getattr(node, "variable", None)))
            waiting.extend(following for following, _ in node.next_functions)
    for name, tensor in parameters.items():
        if id(tensor) not in used:
            encoder.get_parameter(name).requires_grad_(False)


def patches_of_dates(encoder: nn.Module, dates: int) -> int:
    """Return how many dates of features an encoder makes of images of `dates` dates."""
    patch = getattr(encoder, "patch", None)
    return dates // patch[0] if isinstance(patch, tuple) else dates


def dates_of_a_patch(encoder: nn.Module) -> int:
    """Return how many dates a patch of the encoder spans."""
    patch = getattr(encoder, "patch", None)
    return int(patch[0]) if isinstance(patch, tuple) else 1


def with_dates(x: Tensor) -> Tensor:
    """Return images with an axis of dates, `(B, C, T, H, W)` of that or of `(B, C, H, W)`.

    Raises:
        UserError: If they are neither.
    """
    if x.ndim not in (4, 5):
        raise UserError(
            f"the network was given images of the shape {tuple(x.shape)}; it needs (B, C, T, H, W) or "
            "(B, C, H, W)"
        )
    return x.unsqueeze(2) if x.ndim == 4 else x


def reflected(x: Tensor, multiple: tuple[int, int]) -> Tensor:
    """Return images whose sides are multiples, reflected at the bottom and on the right where they were not.

    Small images are reflected as often as it takes.

    Args:
        x: `(..., H, W)`.
        multiple: Of rows and of columns.
    """
    for axis, side in zip((-2, -1), multiple, strict=True):
        length = x.shape[axis]
        wanted = -(-length // side) * side
        if wanted != length:
            turn = max(length - 1, 1)
            places = torch.arange(wanted, device=x.device).remainder(2 * turn)
            places = torch.minimum(places, 2 * turn - places).clamp(max=length - 1)
            x = x.index_select(axis, places)
    return x


def feature_maps(
    encoder: Any,
    x: Tensor,
    *,
    layers: Sequence[int],
    time: Tensor | None,
    location: Tensor | None,
    apart: bool,
) -> list[Tensor]:
    """Return an encoder's features `(B, T * D, h, w)` for each layer, date by date.

    Args:
        encoder: With `feature_maps`.
        x: `(B, C, T, H, W)`.
        layers: Numbers of its layers.
        time: `(B, T, 2)` or None.
        location: `(B, 2)` or None.
        apart: Whether each date is encoded as an image of its own.

    Raises:
        UserError: If the encoder takes no images of this size, or a batch norm has a single value to train
            with.
    """
    samples = len(x)
    if apart and x.shape[2] > 1:
        if location is not None:
            location = location.repeat_interleave(x.shape[2], dim=0)
        x = frame_by_frame(x).unsqueeze(2)  # B C T H W -> (B T) C 1 H W
        time = None if time is None else time.flatten(0, 1).unsqueeze(1)
    try:
        maps = encoder.feature_maps(x, layers=list(layers), time=time, location=location)
    except AssertionError as error:  # of timm's transformers, which are built for one size
        raise UserError(
            f"{type(encoder).__name__} does not take images of {x.shape[-2]}x{x.shape[-1]} pixels ({error}); "
            "give it options such as img_size or dynamic_img_size: true"
        ) from error
    except ValueError as error:
        if _ONE_VALUE not in str(error):
            raise
        raise UserError(
            f"one sample of {x.shape[-2]}x{x.shape[-1]} pixels leaves a single value for each channel of a "
            f"batch norm in {type(encoder).__name__}, which cannot be trained with; take larger images, more "
            "samples in a batch, or keep the encoder frozen"
        ) from error
    return [joined(features, samples) for features in maps] if len(x) != samples else list(maps)


def _computed(encoder: nn.Module, numbers: Sequence[int]) -> list[EncoderLayer]:
    rows, columns = _sides(encoder)
    maps, _ = _on_meta(encoder, numbers)
    return [
        EncoderLayer(
            number,
            features.shape[1],
            (_stride(rows, features.shape[-2]), _stride(columns, features.shape[-1])),
        )
        for number, features in zip(numbers, maps, strict=True)
    ]


def _on_meta(encoder: nn.Module, numbers: Sequence[int]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return the feature maps of an image without memory, and the parameters they were made of."""
    wrapped = _FeatureMaps(encoder)
    parameters = {
        name: torch.empty_like(p, device="meta").requires_grad_(p.requires_grad)
        for name, p in wrapped.named_parameters()
    }
    buffers = {name: torch.empty_like(b, device="meta") for name, b in wrapped.named_buffers()}
    dates = dates_of_a_patch(encoder)
    shape = (1, len(encoder.bands), dates, *_sides(encoder))  # type: ignore[arg-type]
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        with torch.enable_grad(), torch.device("meta"):
            arguments = (torch.empty(shape), list(numbers), torch.empty(1, dates, 2), torch.empty(1, 2))
            maps = functional_call(wrapped, {**parameters, **buffers}, arguments)
    finally:
        for module, mode in modes:
            module.training = mode
    return maps, {name.removeprefix("encoder."): tensor for name, tensor in parameters.items()}


def _count(encoder: Any) -> int:
    depth = getattr(encoder, "depth", None)
    return int(depth) if depth is not None else sum(1 for _ in encoder.blocks())


def _sides(encoder: Any) -> tuple[int, int]:
    """Return rows and columns of an image whose features have whole pixels."""
    patch = getattr(encoder, "patch", None)
    if isinstance(patch, tuple):
        return 4 * patch[1], 4 * patch[2]
    side = 4 * int(patch) if patch is not None else int(getattr(encoder, "image", 224))
    return side, side


def _stride(side: int, length: int) -> int:
    """Return what a side was divided by; where a pyramid rounded up, the power of two that it halves by."""
    return side // length if side % length == 0 else 2 ** round(math.log2(side / length))


class _FeatureMaps(nn.Module):
    """An encoder whose `forward` gives its feature maps."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, layers: list[int], time: Tensor, location: Tensor) -> Any:
        return self.encoder.feature_maps(x, layers=layers, time=time, location=location)
