"""Plain formulas of scOT reproduce the recorded cases, and our network equals them elsewhere too."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

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
