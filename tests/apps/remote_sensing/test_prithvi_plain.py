"""Our autoencoder equals plain formulas, with gradients, for options that no recorded case has."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from apps.remote_sensing.data.bands import HLS
from apps.remote_sensing.models.prithvi import KEY_MAP, PrithviMAE

BASE: dict[str, Any] = {
    "resolution": (16, 16),
    "frames": 2,
    "patch": (1, 4, 4),
    "bands": HLS,
    "width": 48,
    "depth": 2,
    "heads": 3,
    "mlp_ratio": 4.0,
    "coordinates": (),
    "eps": 1e-5,
    "decoder_width": 32,
    "decoder_depth": 2,
    "decoder_heads": 4,
    "mask_ratio": 0.75,
    "norm_pix": False,
}
BOTH = ("time", "location")


@pytest.fixture(scope="module")
def plain(repository: Path) -> ModuleType:
    """The module with the plain network."""
    path = repository / "tests/benchmarks/prithvi_plain.py"
    spec = importlib.util.spec_from_file_location("prithvi_plain", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (2, 16, 16)),
        ({"patch": (2, 4, 4), "frames": 4, "norm_pix": True}, (4, 16, 16)),
        ({"coordinates": ("location",), "mask_ratio": 0.6}, (2, 16, 16)),
        ({"coordinates": ("time",), "eps": 1e-6, "mlp_ratio": 2.0}, (2, 16, 16)),
        ({"coordinates": BOTH, "norm_pix": True}, (3, 20, 12)),
        ({"frames": 1, "mask_ratio": 0.5, "bands": ("red", "vv")}, (1, 16, 16)),
        ({"resolution": (16, 24), "patch": (2, 8, 4)}, (2, 32, 24)),
    ],
)
def test_loss_prediction_features_and_gradients_equal_plain_formulas(
    plain: ModuleType, options: dict[str, Any], size: tuple[int, int, int]
) -> None:
    settings = {**BASE, **options}
    torch.manual_seed(0)
    ours = PrithviMAE(**settings, learn_scale=True).eval()
    theirs = plain.PlainPrithvi(**{**settings, "bands": len(settings["bands"])})
    official = KEY_MAP.to_official(ours.state_dict())
    theirs.load_state_dict({name: t for name, t in official.items() if not name.endswith("pos_embed")})
    x = torch.randn(3, len(settings["bands"]), *size)
    noise = torch.rand(
        3, ours.encoder.grid_of(x)[0] * ours.encoder.grid_of(x)[1] * ours.encoder.grid_of(x)[2]
    )
    time, location = 2015 + 9 * torch.rand(3, size[0], 2), 90 * torch.rand(3, 2)

    out = ours(x, time, location, noise=noise)
    loss, prediction = theirs(x, time, location, noise=noise)
    out.loss.backward()
    loss.backward()

    assert torch.allclose(out.loss, loss, rtol=1e-5)
    assert torch.allclose(out.prediction, prediction, atol=1e-5)
    assert torch.allclose(ours.encoder(x, time, location), theirs.features(x, time, location), atol=1e-5)
    grads = KEY_MAP.to_official({name: p.grad for name, p in ours.named_parameters()})
    assert grads.keys() == dict(theirs.named_parameters()).keys()
    far = [
        n for n, p in theirs.named_parameters() if not torch.allclose(grads[n], p.grad, atol=1e-6, rtol=1e-3)
    ]
    assert far == []
