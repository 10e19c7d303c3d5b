"""ResNet-50 on any number of bands, without its classifier (He et al. 2015, arXiv 1512.03385)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from apps.remote_sensing.models.any_backbone import resnet_stages
from apps.remote_sensing.models.dino.sensors import S2, SensorNetwork
from core.errors import UserError

__all__ = ["SoftConResNet50"]


class SoftConResNet50(SensorNetwork):
    """torchvision's ResNet-50 whose first convolution reads other bands; its feature is the global mean.

    Args:
        bands: Bands of the input in their order, or their number.
    """

    width = 2048
    depth = 4
    patch = 32
    image = 224

    def __init__(self, bands: Sequence[str] | int = S2.bands) -> None:
        super().__init__(bands)
        from torchvision.models import resnet50

        device = torch.get_default_device()
        with torch.device("meta"):  # torchvision draws weights, which are drawn below once more
            body = resnet50(weights=None)
            body.conv1 = nn.Conv2d(len(self.bands), 64, kernel_size=7, stride=2, padding=3, bias=False)
        body.fc = nn.Identity()
        self.body = body if device.type == "meta" else body.to_empty(device=device)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(B, C, H, W)` or `(B, C, 1, H, W)`, normalised, to their features `(B, 2048)`."""
        return self.body(self.one_frame(x))

    def layer_maps(self, x: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Return what some of the four stages give, at a 4th, 8th, 16th or 32nd of the size."""
        if any(not -self.depth <= i < self.depth for i in layers):
            raise UserError(f"layers is {list(layers)}; the network has stages 0 to {self.depth - 1}")
        stages = resnet_stages(self.body, x)
        return [stages[i] for i in layers]

    @property
    def layer_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Of each stage the features of a date, and the rows and columns of pixels that one stands for."""
        return tuple((256 * 2**i, 4 * 2**i, 4 * 2**i) for i in range(self.depth))

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the bottlenecks."""
        for stage in (self.body.layer1, self.body.layer2, self.body.layer3, self.body.layer4):
            yield from stage

    def reset_parameters(self) -> None:
        """Draw all weights anew as torchvision does, and write all buffers."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
