"""What makes a map of an encoder's features; a recipe names one by its class path."""

from __future__ import annotations

from apps.remote_sensing.models.decoders.base import Decoder, Decoding, Maps
from apps.remote_sensing.models.decoders.fcn import FCN
from apps.remote_sensing.models.decoders.linear import Linear
from apps.remote_sensing.models.decoders.neck import Neck
from apps.remote_sensing.models.decoders.unet import UNet
from apps.remote_sensing.models.decoders.upernet import UperNet

__all__ = ["FCN", "Decoder", "Decoding", "Linear", "Maps", "Neck", "UNet", "UperNet"]
