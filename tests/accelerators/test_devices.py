"""Choosing and setting up a device: what of it is the same with and without the hardware."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from core.accelerators import choice, cuda
from core.accelerators.compilation import compile_blocks
from core.accelerators.environment import cuda_environment, neuron_environment, set_defaults, wants
from core.accelerators.memory import flat, is_out_of_memory, out_of_memory_advice
from core.accelerators.presence import find_neuron
from core.cli.arguments import prepare
from core.cli.environment import set_environment
from core.errors import UserError


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that lays down the metadata of installed distributions."""

    def install(**versions: str) -> None:
        for name, version in versions.items():
            info = tmp_path / f"{name}-{version}.dist-info"
            info.mkdir()
            text = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
            (info / "METADATA").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


@pytest.fixture
def restored() -> Iterator[None]:
    """Put back what CUDA's switches set in the process."""
    precision, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = convolutions
    cuda._attention("auto")
    torch.use_deterministic_algorithms(False)


# Which device ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ({"neuron", "cuda", "mps", "cpu"}, "neuron"),
        ({"cuda", "mps", "cpu"}, "cuda"),
        ({"mps", "cpu"}, "mps"),
        ({"cpu"}, "cpu"),
    ],
)
def test_auto_takes_the_first_that_answers(
    monkeypatch: pytest.MonkeyPatch, there: set[str], chosen: str
) -> None:
    monkeypatch.setattr(choice, "available", lambda device: device in there)

    assert choice.choose("auto") == choice.choose(None) == chosen


def test_absent_neuron_is_refused_in_one_sentence_with_three_causes() -> None:
    with pytest.raises(UserError) as mistake:
        choice.choose("neuron")

    sentence = str(mistake.value)
    assert all(word in sentence for word in ("hardware", "package", "driver", "--trainer.accelerator=cpu"))
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("versions", "package", "words"),
    [
        ({"torch_neuronx": "1.0"}, "placeholder", "empty placeholder"),
        ({"torch_neuronx": "1.13.1.1"}, "xla", "old XLA generation"),
        ({"torch_neuronx": "2.9.0.2", "torch_xla": "2.9.0"}, "xla", "old XLA generation"),
        ({"torch_neuronx": "2.13.3.1"}, "other_torch", "made for another torch"),
        ({"torch_neuronx": "2.14.3.1"}, "native", "fits"),
    ],
)
def test_neuron_s_package_is_recognised(
    installed: Callable[..., None], versions: dict[str, str], package: str, words: str
) -> None:
    installed(**versions)

    found = find_neuron()

    assert found.package == package
    assert words in found.why_absent()


def test_driver_and_chips_are_found(tmp_path: Path, installed: Callable[..., None]) -> None:
    installed(torch_neuronx="2.14.3.1", torch_xla="2.9.0")
    root = tmp_path / "machine"
    for name in ("dev/neuron0", "dev/neuron1"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()

    without = find_neuron(root=root)
    (root / "sys/module/neuron").mkdir(parents=True)
    with_driver = find_neuron(root=root)

    assert (without.chips, without.driver, with_driver.driver) == (2, False, True)
    assert [line.split(" ")[0] for line in without.problems()] == ["torch-xla", "The"]
    assert len(with_driver.problems()) == 1


def test_chips_without_a_package_are_a_problem(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/neuron0").touch()

    assert "1 Neuron chips but no torch-neuronx" in find_neuron(root=tmp_path).problems()[0]


# The environment -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "asked", "rounds"),
    [
        ("bf16-true", None, "1"),
        ("bf16-mixed", None, "0"),
        ("32-true", None, "0"),
        ("bf16-mixed", True, "1"),
        ("bf16-true", False, "0"),
    ],
)
def test_results_are_rounded_at_random_with_bfloat16_weights_only(
    precision: str, asked: bool | None, rounds: str
) -> None:
    found = neuron_environment(precision=precision, stochastic_rounding=asked, seed=7)

    assert found["NEURON_RT_STOCHASTIC_ROUNDING_EN"] == rounds
    assert found.get("NEURON_RT_STOCHASTIC_ROUNDING_SEED") == ("7" if rounds == "1" else None)


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"NEURON_COMPILE_CACHE_URL": "s3://mine"})

    fresh = set_defaults(neuron_environment(cache="/other"))

    assert os.environ["NEURON_COMPILE_CACHE_URL"] == "s3://mine"
    assert os.environ["TORCH_NEURONX_FALLBACK_ONLY_FOR_UNIMPLEMENTED_OPS"] == "1"
    assert "NEURON_COMPILE_CACHE_URL" not in fresh


def test_cuda_s_allocator_is_left_alone_where_it_is_set_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    assert cuda_environment()["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert cuda_environment(expandable_segments=False) == {}
    assert "TORCH_NCCL_ASYNC_ERROR_HANDLING" in cuda_environment(ranks=True)

    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "backend:native")
    assert cuda_environment() == {}


def test_auto_sets_nothing_for_devices_that_are_not_there() -> None:
    assert wants("neuron", "neuron") and wants("gpu", "cuda")
    assert not wants("auto", "neuron")
    assert not wants("cpu", "cuda")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "0"),
        (["--trainer.precision=bf16-true"], "1"),
        (["--trainer.precision", "bf16-true", "--neuron.stochastic_rounding", "false"], "0"),
        (["--trainer.accelerator=cpu"], None),
    ],
)
def test_a_recipe_s_neuron_settings_are_in_the_environment_before_torch(
    monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str | None
) -> None:
    monkeypatch.setattr(os, "environ", {"DFM_DATA": "/data/sets"})
    request = prepare("timeseries", "fit", ["--config", "ttm/demo", "--config", "trainer/neuron", *words])

    set_environment(request)

    assert os.environ.get("NEURON_RT_STOCHASTIC_ROUNDING_EN") == expected
    assert os.environ.get("NEURON_COMPILE_CACHE_URL") == (expected and "/data/neuron-programs")


# CUDA ------------------------------------------------------------------------------------------------------


def test_cuda_s_switches_are_set_and_told(restored: None) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(3, 4, 3), nn.Linear(4, 4))

    on = cuda.apply(cuda.CUDASwitches(attention="flash", channels_last=True), network=network)

    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cudnn.allow_tf32 is True
    assert torch.backends.cuda.flash_sdp_enabled() and not torch.backends.cuda.math_sdp_enabled()
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert network[1].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert on["channels_last"] == {"on": True, "reason": "2 convolution weights"}
    assert on["fused_optimizer"]["on"] is True
    assert on["compile"]["on"] is False


def test_parity_runs_keep_float32(restored: None) -> None:
    cuda.apply(cuda.CUDASwitches(matmul="highest", convolutions=False), network=nn.Linear(2, 2))

    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cudnn.allow_tf32 is False


def test_kernels_chosen_by_time_are_refused_where_runs_must_repeat(restored: None) -> None:
    torch.use_deterministic_algorithms(True)

    with pytest.raises(UserError, match=r"trainer\.deterministic is true"):
        cuda.apply(cuda.CUDASwitches(compile="max-autotune"), network=nn.Linear(2, 2))


class Layers(nn.Module):
    """Two equal blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.GELU()) for _ in range(2))
        self.head = nn.Linear(4, 1)

    def blocks(self) -> Iterator[nn.Module]:
        yield from self.layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def test_blocks_are_compiled_in_place_and_compute_the_same() -> None:
    network, x = Layers(), torch.randn(3, 4)
    names, before = list(network.state_dict()), network(x)

    count = compile_blocks(network, backend="eager")

    assert count == 2
    assert list(network.state_dict()) == names
    torch.testing.assert_close(network(x), before)


# Memory ----------------------------------------------------------------------------------------------------


def test_figures_come_flat_from_both_forms() -> None:
    nested = {"allocated_bytes": {"current": 1, "peak": 2}, "num_ooms": 0, "name": "x"}

    assert dict(flat(nested)) == {"allocated_bytes.current": 1, "allocated_bytes.peak": 2, "num_ooms": 0}
    assert dict(flat({"allocated_bytes.all.peak": 3})) == {"allocated_bytes.all.peak": 3}


def test_torch_s_own_message_is_recognised_and_answered_with_what_to_change() -> None:
    with pytest.raises(RuntimeError) as full:
        torch.empty(2**60, dtype=torch.uint8)
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        datamodule=SimpleNamespace(batch_size=64),
        accumulate_grad_batches=2,
        precision="32-true",
    )

    assert is_out_of_memory(full.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    sentence = str(out_of_memory_advice(full.value, trainer))
    assert "--data.batch_size 32 --trainer.accumulate_grad_batches 4" in sentence
    assert "checkpointing" in sentence and "shard" in sentence and "\n" not in sentence
