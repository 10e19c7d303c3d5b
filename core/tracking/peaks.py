"""Peak dense floating-point rates of devices, from their makers' datasheets; none are claimed for CPUs."""

from __future__ import annotations

import os
import re

import torch

__all__ = ["PEAKS", "compute_dtype", "mfu", "peak_flops"]

# TFLOP/s without sparsity, by part of the name that torch.cuda.get_device_name returns; the first match
# counts, so the narrower names stand first. Makers print sparse figures twice as high: these are the dense
# ones. bf16 holds for float16 too. "tf32" is float32 through tensor cores, "fp32" without them.
PEAKS: dict[str, dict[str, float]] = {
    "GB200": {"bf16": 2500.0, "tf32": 1250.0, "fp32": 80.0, "fp64": 40.0},  # GB200 NVL72 datasheet, per GPU
    "B200": {"bf16": 2250.0, "tf32": 1125.0, "fp32": 75.0, "fp64": 37.0},  # DGX B200 datasheet, an eighth
    "GH200": {"bf16": 989.5, "tf32": 494.7, "fp32": 67.0, "fp64": 67.0},  # GH200 datasheet
    "H200 NVL": {"bf16": 835.5, "tf32": 417.5, "fp32": 60.0, "fp64": 60.0},  # H200 datasheet
    "H200": {"bf16": 989.5, "tf32": 494.7, "fp32": 67.0, "fp64": 67.0},  # H200 datasheet, SXM
    "H100 PCIe": {"bf16": 756.0, "tf32": 378.0, "fp32": 51.0, "fp64": 51.0},  # H100 datasheet
    "H100 NVL": {"bf16": 835.5, "tf32": 417.5, "fp32": 60.0, "fp64": 60.0},  # H100 datasheet, one of the pair
    "H100": {"bf16": 989.5, "tf32": 494.7, "fp32": 67.0, "fp64": 67.0},  # H100 datasheet, SXM
    "A100": {"bf16": 312.0, "tf32": 156.0, "fp32": 19.5, "fp64": 19.5},  # A100 datasheet
    "A10G": {"bf16": 70.0, "tf32": 35.0, "fp32": 31.5},  # AWS g5; the A10 without G differs
    "A10": {"bf16": 125.0, "tf32": 62.5, "fp32": 31.2},  # A10 datasheet
    "L40S": {"bf16": 362.0, "tf32": 183.0, "fp32": 91.6},  # L40S datasheet
    "L4": {"bf16": 121.0, "tf32": 60.0, "fp32": 30.3},  # L4 datasheet
    "RTX 4090": {"bf16": 165.2, "tf32": 82.6, "fp32": 82.6},  # Ada whitepaper, float32 sums
    "MI300X": {"bf16": 1307.4, "tf32": 653.7, "fp32": 163.4, "fp64": 163.4},  # MI300X datasheet
    # AWS's architecture pages, per chip: a rank is a logical core, so `peak_flops` divides by `_CORES`.
    "TRAINIUM1": {"bf16": 190.0, "tf32": 190.0, "fp32": 47.5},
    "TRAINIUM2": {"bf16": 667.0, "tf32": 667.0, "fp32": 181.0},
    "TRAINIUM3": {"bf16": 671.0, "tf32": 671.0, "fp32": 183.0},
}
# Physical cores of a chip; on the last two, two of them make a logical core unless the environment says one.
_CORES = {"TRAINIUM1": 2, "TRAINIUM2": 8, "TRAINIUM3": 8}


def peak_flops(device_name: str, dtype: str) -> float | None:
    """Return a device's dense peak in FLOP per second, or None where it is not known.

    Args:
        device_name: As `torch.cuda.get_device_name` gives it, such as `NVIDIA H100 80GB HBM3`, or a Trainium
            chip or instance (`trn2.48xlarge`), of which one logical core counts.
        dtype: `bf16`, `fp16`, `tf32`, `fp32` or `fp64`.
    """
    words = device_name.upper().replace("-", " ").replace(".", " ").split()
    words = [re.sub(r"^TRN(\d)[NU]?$", r"TRAINIUM\1", word) for word in words]  # instances: trn1n, trn2u
    if "TRAINIUM" in words:  # "AWS Trainium 2"
        start = words.index("TRAINIUM")
        words.append("".join(words[start : start + 2]))
    for name, rates in PEAKS.items():
        if all(word in words for word in name.upper().split()):
            rate = rates.get("bf16" if dtype == "fp16" else dtype)
            return None if rate is None else rate * 1e12 * _share(name)
    return None


def mfu(flops: float, *, seconds: float, peak: float) -> float:
    """Return model FLOPs utilisation: FLOPs done per second over what the devices could do, 0 to 1."""
    return flops / seconds / peak


def _share(name: str) -> float:
    """Return the part of a device that one rank has."""
    if name not in _CORES:
        return 1.0
    joined = int(os.environ.get("NEURON_LOGICAL_NC_CONFIG") or 2) if name != "TRAINIUM1" else 1
    return joined / _CORES[name]


def compute_dtype(precision: str, device: str = "cuda") -> str:
    """Return the number format that products are computed in under Lightning's `precision`.

    float32 products go through tensor cores as TF32 if `torch.set_float32_matmul_precision` allows it; Neuron
    keeps them in float32.
    """
    if "bf16" in precision or precision.startswith("transformer-engine"):
        return "bf16"
    if precision.startswith("16"):
        return "fp16"
    if precision.startswith("64"):
        return "fp64"
    if device == "neuron":
        return "fp32"
    return "fp32" if torch.get_float32_matmul_precision() == "highest" else "tf32"
