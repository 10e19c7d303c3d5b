"""Any backbone of timm or torchvision by its name, on any bands, with its own normalisation."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from apps.remote_sensing.models.band_maps import BandedMap, band_rule, first_layer, is_marked
from apps.remote_sensing.models.frames import SingleImageEncoder
from core.checkpoints.keymap import KeyMap, Rename, Reshape
from core.errors import UserError, did_you_mean

__all__ = [
    "KEY_MAP",
    "AnyBackbone",
    "from_official_config",
    "key_maps",
    "resnet_stages",
    "to_official_config",
]

KEY_MAP = BandedMap(
    renames=(Rename("{rest*}", "body.{rest*}"),),
    ignored=("fc.{leaf}", "head.{leaf}", "head.fc.{leaf}", "classifier.{leaf}"),
)

_COLOURS = ("red", "green", "blue")
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_TORCHVISION = "torchvision/"


class AnyBackbone(SingleImageEncoder):
    """A published image backbone without its classifier.

    Images are to be scaled so that white, or a reflectance of 1, is 1, and standardised by `mean` and `std`:
    those of the backbone's own pre-training for red, green and blue, their average for any other band. The
    resize study found the data's own statistics better for weights from ImageNet: give these.

    Args:
        name: As timm knows it (`resnet50`, `vit_base_patch16_224.augreg_in21k`), or `torchvision/resnet50`.
        bands: Bands of the input in their order. In a published first layer each colour keeps its own
            filters, and any other band begins with their average, all scaled by three over the bands.
        pretrained: Whether the published weights are fetched; else weights are drawn.
        mean: Of each band; None is the backbone's.
        std: As `mean`.
        options: Further arguments of timm's `create_model` or of torchvision's builder, such as `img_size`.

    Raises:
        UserError: If there is no such backbone, or statistics are not one for each band.
    """

    normalisation = "standardise"
    scale = 1.0

    def __init__(
        self,
        name: str,
        bands: Sequence[str] = _COLOURS,
        *,
        pretrained: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name, self.bands, self.options = name, tuple(bands), dict(options or {})
        self.body = self._built(pretrained=pretrained)
        about = getattr(self.body, "pretrained_cfg", None) or {}
        published = (about.get("mean") or _IMAGENET[0], about.get("std") or _IMAGENET[1])
        self.mean, self.std = (
            self._along(own, theirs) for own, theirs in zip((mean, std), published, strict=True)
        )
        first = getattr(self.body, "patch_embed", None)
        fixed = getattr(first, "img_size", None)
        self.image = int((fixed or about.get("input_size") or (3, 224, 224))[-1])
        self.any_size = not (fixed and getattr(first, "strict_img_size", True))
        self.width = self._width()

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(B, C, H, W)` or `(B, C, 1, H, W)`, normalised, to their features `(B, D)`."""
        return self.body(self.one_frame(x))

    def layer_maps(self, x: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Return what some stages (of a pyramid) or blocks (of a transformer) give.

        Raises:
            UserError: If the backbone does not give maps, or there is no such stage.
        """
        stages = self._stages(x)
        if any(not -len(stages) <= i < len(stages) for i in layers):
            raise UserError(f"layers is {list(layers)}; {self.name} has stages 0 to {len(stages) - 1}")
        return [stages[i] for i in layers]

    @property
    def depth(self) -> int:
        """Stages or blocks that `feature_maps` knows."""
        about = getattr(self.body, "feature_info", None)
        if about is not None and hasattr(self.body, "forward_intermediates"):
            return len(about)
        features = getattr(self.body, "features", None)
        return len(features) if isinstance(features, nn.Sequential) else 4

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the repeated layers, in the order in which they run; for an unknown shape all its parts."""
        for name in ("blocks", "stages", "layers", "features"):
            layers = getattr(self.body, name, None)
            if isinstance(layers, nn.ModuleList | nn.Sequential):
                for stage in layers:
                    yield from getattr(stage, "blocks", None) or [stage]
                return
        stages = [getattr(self.body, f"layer{i}", None) for i in range(1, 5)]
        for part in stages if all(isinstance(s, nn.Sequential) for s in stages) else [self.body.children()]:
            yield from part  # type: ignore[misc]

    def reset_parameters(self) -> None:
        """Draw all weights anew as their library does, and write all buffers."""
        with torch.device("cpu"):
            fresh = self._built(pretrained=False)
        with torch.no_grad():
            for kind in ("named_parameters", "named_buffers"):
                drawn = dict(getattr(fresh, kind)())
                for name, tensor in getattr(self.body, kind)():
                    tensor.copy_(drawn[name])

    def _built(self, *, pretrained: bool) -> nn.Module:
        if self.name.startswith(_TORCHVISION):
            return self._from_torchvision(self.name.removeprefix(_TORCHVISION), pretrained=pretrained)
        import timm

        if not timm.is_model(self.name.split(".")[0]):
            hint = did_you_mean(self.name, timm.list_models())
            raise UserError(
                f"timm has no backbone '{self.name}'{hint or '; timm.list_models() has all names'}"
            )
        try:
            coloured = pretrained and self.bands != _COLOURS
            body = timm.create_model(
                self.name,
                pretrained=pretrained and not coloured,
                num_classes=0,
                in_chans=len(self.bands),
                **self.options,
            )
            if coloured:
                _fill(
                    body,
                    timm.create_model(self.name, pretrained=True, num_classes=0, **self.options),
                    self.bands,
                )
            return body
        except (TypeError, RuntimeError, OSError) as error:
            raise UserError(f"timm cannot build {self.name} with these options ({error})") from error

    def _from_torchvision(self, name: str, *, pretrained: bool) -> nn.Module:
        import torchvision

        known = torchvision.models.list_models(module=torchvision.models)
        if name not in known:
            raise UserError(f"torchvision has no classifier '{name}'{did_you_mean(name, known)}")
        weights = "DEFAULT" if pretrained else None
        body = torchvision.models.get_model(name, weights=weights, **self.options)
        _drop_last(body)
        if self.bands == _COLOURS:
            return body
        colours = copy.deepcopy(body) if pretrained else None
        _replace_first(body, channels=len(self.bands))
        if colours is not None:
            _fill(body, colours, self.bands)
        return body

    def _stages(self, x: Tensor) -> list[Tensor]:
        if hasattr(self.body, "forward_intermediates"):
            # As in DINOv2's evaluation, a plain transformer's tokens go through its last norm.
            last = getattr(self.body, "norm", None)
            plain = hasattr(self.body, "blocks") and isinstance(last, nn.LayerNorm)
            maps = self.body.forward_intermediates(x, norm=plain, output_fmt="NCHW", intermediates_only=True)
            return list(maps)
        if all(hasattr(self.body, f"layer{i}") for i in range(1, 5)):
            return resnet_stages(self.body, x)
        if isinstance(getattr(self.body, "features", None), nn.Sequential):
            stages = []
            turned = getattr(self.body, "permute", None) or nn.Identity()  # Swin has channels last inside
            for part in self.body.features:
                x = part(x)
                stages.append(turned(x))
            return stages
        raise UserError(f"{self.name} gives no feature maps; choose its counterpart in timm")

    def _along(self, own: Sequence[float] | None, published: Sequence[float]) -> tuple[float, ...]:
        if own is not None:
            if len(own) != len(self.bands):
                raise UserError(f"there are {len(own)} statistics for {len(self.bands)} bands; give one each")
            return tuple(float(number) for number in own)
        by_name = dict(zip(_COLOURS, published, strict=True))
        return tuple(by_name.get(band, sum(published) / 3) for band in self.bands)

    def _width(self) -> int:
        width = getattr(self.body, "num_features", None)
        if isinstance(width, int):
            return width
        with torch.device("meta"):
            body = self._built(pretrained=False).eval()
            return int(body(torch.empty(1, len(self.bands), self.image, self.image)).shape[-1])


def key_maps(network: AnyBackbone) -> tuple[KeyMap, ...]:
    """Return the table of a backbone; it puts each colour's filters on the band of that name.

    A first layer of three channels reads red, green and blue, one of as many as the network otherwise the
    network's bands, unless the file's configuration names others.
    """
    (name, fresh), bands = first_layer(network), network.bands

    def usual(channels: int) -> tuple[str, ...] | None:
        return bands if channels == len(bands) else None

    def rules(described: tuple[str, ...] | None) -> tuple[Reshape, ...]:
        by_name = band_rule(name, fresh, wanted=bands, described=described, usual=usual)

        def to_ours(weight: Tensor) -> Tensor:
            silent = described is None and not is_marked(weight)
            return (
                spread(weight, bands)
                if silent and weight.shape[1] == len(_COLOURS)
                else by_name.to_ours(weight)
            )

        return (Reshape(name, to_ours, by_name.to_official),)

    return (replace(KEY_MAP, reshapes=rules(None), rules=rules),)


def resnet_stages(body: Any, x: Tensor) -> list[Tensor]:
    """Return what the four stages of torchvision's ResNet give."""
    h, stages = body.maxpool(body.relu(body.bn1(body.conv1(x)))), []
    for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
        stages.append(h := stage(h))
    return stages


def spread(weight: Tensor, bands: Sequence[str]) -> Tensor:
    """Return a first layer's weight `(D, 3, ...)` for colours as `(D, C, ...)` for bands.

    Each colour keeps its filters, any other band gets their average; three over C keeps the sum's size.
    """
    if tuple(bands) == _COLOURS:
        return weight
    average = weight.mean(1)
    columns = [weight[:, _COLOURS.index(b)] if b in _COLOURS else average for b in bands]
    return torch.stack(columns, 1) * (len(_COLOURS) / len(bands))


def from_official_config(config: Mapping[str, Any]) -> AnyBackbone:
    """Build the backbone of a config: `architecture`, and what else `AnyBackbone` takes.

    Raises:
        UserError: If it names no architecture.
    """
    arguments = {key: value for key, value in config.items() if key in ("bands", "mean", "std", "options")}
    if "architecture" not in config:
        raise UserError("the config names no architecture, such as resnet50")
    return AnyBackbone(str(config["architecture"]), **arguments)


def to_official_config(network: AnyBackbone) -> dict[str, Any]:
    """Return the config that `from_official_config` builds the same network from."""
    return {
        "architecture": network.name,
        "bands": list(network.bands),
        "mean": list(network.mean),
        "std": list(network.std),
        "options": dict(network.options),
    }


def _replace_first(body: nn.Module, *, channels: int) -> None:
    """Put a convolution over other channels in the place of the first one."""
    path = first_layer(body)[0].removesuffix(".weight")
    old = body.get_submodule(path)
    assert isinstance(old, nn.Conv2d)
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    _put(body, path, new)


def _fill(body: nn.Module, colours: nn.Module, bands: Sequence[str]) -> None:
    """Give a backbone of any bands the weights of one of red, green and blue."""
    name, state = first_layer(body)[0], colours.state_dict()
    body.load_state_dict({**state, name: spread(state[name], bands)})


def _drop_last(body: nn.Module) -> None:
    """Put nothing in the place of the last linear layer: the classifier."""
    path = [name for name, m in body.named_modules() if isinstance(m, nn.Linear)][-1]
    _put(body, path, nn.Identity())


def _put(body: nn.Module, path: str, module: nn.Module) -> None:
    holder, _, leaf = path.rpartition(".")
    body.get_submodule(holder).register_module(leaf, module)
