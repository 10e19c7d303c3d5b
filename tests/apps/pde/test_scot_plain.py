"""Plain formulas of scOT reproduce the recorded cases, and our network equals them elsewhere too."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from apps.pde.models.poseidon import KEY_MAP, from_official_config
from core.parity import Case, load_case

CASES = ("a_convnext_time", "b_resnet_steady_padded")


@pytest.fixture(scope="module")
def plain(repository: Path) -> ModuleType:
    """The module with the plain network."""
    spec = importlib.util.spec_from_file_location("scot_plain", repository / "tests/benchmarks/scot_plain.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def results(plain: ModuleType, case: Case) -> dict[str, Tensor]:
    """Run a recorded case through the plain network."""
    network = plain.PlainScOT(case.config)
    network.load_state_dict(case.state())
    network.eval()
    inputs, config = case.group("input"), case.config
    pixels, time, labels = inputs["pixel_values"], inputs.get("time"), inputs["labels"]
    prediction = network(pixels, time)
    found = {"output/prediction": prediction}
    mask = inputs["pixel_mask"]
    mask = mask if mask.dim() == 4 else mask[:, :, None, None]
    found["output/prediction_with_mask"] = prediction = torch.where(mask, labels, prediction)
    found["loss/loss"] = plain.loss(
        prediction, labels, config["p"], config["channel_slice_list_normalized_loss"]
    )
    found["loss/loss"].backward()
    found |= {f"grad/{name}": network.get_parameter(name).grad for name in case.group("grad")}
    if time is not None:
        other = inputs["pixel_values_other_resolution"]
        found["output/prediction_other_resolution"] = network(other, time[:1])
        state = pixels
        for _ in range(3):
            state = network(state, time / 3)
        found["output/rollout_3_equal_steps"] = state
    return found


@pytest.mark.parametrize("name", CASES)
def test_plain_formulas_reproduce_the_recorded_case(shared: Path, plain: ModuleType, name: str) -> None:
    case = load_case(shared / f"parity/scot/{name}.json")
    for key, tensor in results(plain, case).items():
        limits, wanted = case.head["tolerance"][key.split("/")[0]], case.tensors[key]
        allowed = limits["atol"] + limits["rtol"] * float(wanted.abs().max())
        assert float((tensor.detach() - wanted).abs().max()) <= allowed, key


SMALL = {"embed_dim": 8, "num_heads": [1, 2, 4], "skip_connections": [1, 0, 1], "drop_path_rate": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "a single block on each level": {"image_size": 32, "depths": [1, 1, 1], "window_size": 4},
    "an odd grid on the second level": {"image_size": 56, "depths": [2, 1, 2], "window_size": 4},
    "windows that do not fill the grid": {"image_size": 40, "depths": [2, 2, 1], "window_size": 3},
    "a residual of fewer channels": {
        "image_size": 32,
        "depths": [2, 1, 1],
        "window_size": 8,
        "learn_residual": True,
        "num_out_channels": 3,
    },
    "positions and no bias": {
        "image_size": 24,
        "depths": [1, 2, 1],
        "window_size": 2,
        "use_absolute_embeddings": True,
        "use_conditioning": False,
        "qkv_bias": False,
        "patch_size": 2,
    },
    "convolutions with batch norm": {
        "image_size": 48,
        "depths": [3, 1, 1],
        "window_size": 5,
        "residual_model": "resnet",
        "layer_norm_eps": 1e-3,
        "mlp_ratio": 2.5,
    },
    "another number of levels": {
        "image_size": 32,
        "depths": [2, 3],
        "num_heads": [2, 2],
        "skip_connections": [2, 0],
        "window_size": 4,
    },
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_ours_equals_the_plain_formulas_with(plain: ModuleType, settings: dict[str, Any]) -> None:
    config = {**plain.DEFAULTS, **SMALL, **settings}
    torch.manual_seed(0)
    reference, ours = plain.PlainScOT(config), from_official_config(config)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    reference, ours = reference.double(), ours.double()  # where rounding cannot hide a difference
    state = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
    ours.load_state_dict(KEY_MAP.from_official(state))
    fields = torch.randn(3, 4, config["image_size"], config["image_size"], dtype=torch.float64)
    time = torch.rand(3, dtype=torch.float64)
    wanted, found = reference.eval()(fields, time), ours.eval()(fields, time)
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=1e-9 * float(wanted.detach().abs().max()))
    gradient = torch.randn_like(wanted)
    wanted.backward(gradient)
    found.backward(gradient)
    theirs = {name: p.grad for name, p in reference.named_parameters()}
    for name, tensor in KEY_MAP.to_official({name: p.grad for name, p in ours.named_parameters()}).items():
        size = float(theirs[name].abs().max())
        torch.testing.assert_close(tensor, theirs[name], rtol=0.0, atol=1e-8 * size + 1e-9, msg=name)
