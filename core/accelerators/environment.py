"""Variables that accelerators' libraries read while torch is loaded: set before, without torch.

Every variable is a default: one that the user has set stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from core.accelerators.presence import find_neuron
from core.files import data_folder

__all__ = ["cuda_environment", "neuron_environment", "set_defaults", "wants"]


def neuron_environment(
    *,
    precision: str | None = None,
    cache: str | None = None,
    stochastic_rounding: bool | None = None,
    strict: bool = True,
    seed: int = 0,
) -> dict[str, str]:
    """Return the variables of a run on Neuron.

    Args:
        precision: As the Trainer spells it.
        cache: Folder or object-store address of compiled programs; None takes one beside the data.
        stochastic_rounding: Round bfloat16 results up or down at random, in proportion; None does so with
            `bf16-true` only, where weights too small to move would otherwise stand still. With `bf16-mixed`
            the weights are float32 and it would only add noise.
        strict: Let an operation that fails on the device fail; otherwise it goes to the CPU without a word.
            One that the device has no program for goes there either way.
        seed: Of the rounding.
    """
    rounds = str(precision) == "bf16-true" if stochastic_rounding is None else stochastic_rounding
    folder = cache or str(data_folder().parent / "neuron-programs")
    variables = {
        "NEURON_RT_STOCHASTIC_ROUNDING_EN": "1" if rounds else "0",
        "NEURON_COMPILE_CACHE_URL": folder,
        "TORCH_NEURONX_FALLBACK_ONLY_FOR_UNIMPLEMENTED_OPS": "1" if strict else "0",
    }
    if rounds:
        variables["NEURON_RT_STOCHASTIC_ROUNDING_SEED"] = str(seed)
    return variables


def cuda_environment(*, expandable_segments: bool = True, ranks: bool = False) -> dict[str, str]:
    """Return the variables of a run on CUDA: the allocator grows its blocks with `expandable_segments`, so
    that sizes that vary leave fewer gaps; of several processes (`ranks`) a failed one ends the others.
    """
    variables = {}
    # Under its older name the same is set for CUDA alone, and both together are refused.
    if expandable_segments and "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        variables["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    if ranks:
        variables |= {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "1", "TORCH_NCCL_TRACE_BUFFER_SIZE": "2000"}
    return variables


def wants(accelerator: str | None, device: str) -> bool:
    """Tell, without torch, whether a run may use a device: asked for by name, or found under `auto`."""
    asked = str(accelerator or "auto").lower()
    if asked == device or (device == "cuda" and asked == "gpu"):
        return True
    if asked != "auto":
        return False
    if device == "neuron":
        software = find_neuron()
        return software.package == "native" and software.chips > 0
    return device == "cuda" and Path("/proc/driver/nvidia/version").exists()


def set_defaults(variables: Mapping[str, str]) -> list[str]:
    """Set what is not set yet, and return the names of those that were."""
    fresh = [name for name in variables if name not in os.environ]
    os.environ.update({name: variables[name] for name in fresh})
    return fresh
