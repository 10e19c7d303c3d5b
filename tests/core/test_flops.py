"""FLOPs are counted, not guessed: against formulas, without what is computed twice; MFU is made of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.backbones.llama import Llama
from core.tracking.flops import count_flops, skeleton
from core.tracking.peaks import compute_dtype, mfu, peak_flops

SIZES = {"vocabulary": 512, "width": 128, "depth": 3, "heads": 8, "ffn": 352, "context": 256}


@pytest.mark.parametrize("kv_heads", [8, 2])
@pytest.mark.parametrize("tied", [False, True])
def test_decoder_costs_six_flops_a_weight_and_token_and_its_attention(kv_heads: int, tied: bool) -> None:
    batch, length = 2, 256
    with torch.device("meta"):
        network = Llama(**SIZES, kv_heads=kv_heads, tied=tied)
    layers = sum(weight.numel() for name, weight in network.named_parameters() if "layers" in name)
    products = layers + SIZES["vocabulary"] * SIZES["width"]  # the head; the embedding is a look-up

    counted = count_flops(network, {"ids": torch.zeros(batch, length, dtype=torch.int64)})

    attention = 12 * SIZES["depth"] * length * SIZES["width"]
    assert counted == pytest.approx(batch * length * (6 * products + attention), rel=0.02)


class Recomputing(nn.Module):
    """Two layers, kept or computed again in the backward pass."""

    def __init__(self, again: bool, reentrant: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(2))
        self.first = nn.Linear(8, 8)
        self.again, self.reentrant = again, reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=self.reentrant) if self.again else layer(x)
        return x


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_checkpointing_computes_again_is_not_counted(reentrant: bool) -> None:
    inputs = {"x": torch.zeros(4, 8)}

    kept = count_flops(lambda: Recomputing(False), inputs)
    again = count_flops(lambda: Recomputing(True, reentrant), inputs)

    assert again == kept == 2 * 4 * 64 * (2 + 3 + 3)


class Spectral(nn.Module):
    """A transform over the last axis, a product of complex modes, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6, 4, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        modes = torch.fft.rfft(x)  # B C N
        return torch.fft.irfft((modes.transpose(1, 2) @ self.weight).transpose(1, 2), n=x.shape[-1])


def test_fourier_transforms_and_complex_products_are_counted() -> None:
    flops = count_flops(Spectral, {"x": torch.zeros(2, 6, 64)}, backward=False)

    transforms = 2.5 * 2 * (6 + 4) * 64 * math.log2(64)
    assert flops == transforms + 8 * 2 * 33 * 6 * 4


def test_skeleton_takes_no_memory_and_counts_the_same() -> None:
    network = Recomputing(False)

    bones = skeleton(network)

    assert {value.device.type for value in bones.parameters()} == {"meta"}
    assert {value.device.type for value in network.parameters()} == {"cpu"}
    inputs = {"x": torch.zeros(4, 8)}
    assert count_flops(bones, inputs) == count_flops(network, inputs)


@pytest.mark.parametrize(
    ("device", "dtype", "tflops"),
    [
        ("NVIDIA H200", "bf16", 989.5),
        ("NVIDIA A100-SXM4-80GB", "tf32", 156.0),
        ("Trainium2", "bf16", 166.75),
        ("AWS Trainium 3", "fp32", 45.75),
        ("trn1.32xlarge", "bf16", 95.0),
    ],
)
def test_mfu_of_a_step_of_half_a_second(device: str, dtype: str, tflops: float) -> None:
    peak = peak_flops(device, dtype)
    assert peak is not None

    assert mfu(1e14, seconds=0.5, peak=peak) == pytest.approx(2e14 / (tflops * 1e12), abs=1e-6)


def test_a_rank_that_is_one_physical_core_has_half_of_a_joined_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", "1")

    assert peak_flops("Trainium2", "bf16") == pytest.approx(667e12 / 8)


def test_neuron_keeps_float32_products_in_float32() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    found = compute_dtype("32-true", "cuda"), compute_dtype("32-true", "neuron")
    torch.set_float32_matmul_precision(before)

    assert found == ("tf32", "fp32")
