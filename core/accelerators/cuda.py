"""Setting a process up for CUDA: number formats, attention kernels, optimiser, layout, compilation.

Like the CPU's switches these change speed and the last bits of a result; `apply` says what is on, and that
goes into the checkpoint. `trainer.deterministic: true` is the switch for results that are the same bit for
bit: it also keeps kernels from being chosen by measuring them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from core.accelerators.compilation import compile_blocks
from core.errors import UserError

__all__ = ["CUDASwitches", "apply", "channels_last"]

Attention = Literal["auto", "flash", "efficient", "cudnn", "math"]
Compile = Literal["off", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


@dataclass(frozen=True)
class CUDASwitches:
    """Number formats, kernels and compilation of a run on CUDA.

    Args:
        matmul: Products of float32: `high` rounds their inputs to TF32 on tensor cores, `highest` keeps
            float32 (for parity, spectral networks and metrics), `medium` allows bfloat16.
        convolutions: Whether cuDNN may use TF32 in float32 convolutions.
        attention: The kernel of `scaled_dot_product_attention`; `auto` lets torch take the fastest that fits.
        fused_optimizer: Update all parameters in one fused kernel (the task passes `fused=True` to AdamW).
        channels_last: Keep convolution weights with the channels last, which suits tensor cores; not for
            transformers.
        compile: Mode of `torch.compile` for each block; `reduce-overhead` and `max-autotune` need inputs of
            one shape.
        expandable_segments: Let the allocator grow its blocks; read before torch is loaded.
        memory_snapshot: Keep a record of every allocation, and leave it in the run folder when memory runs
            out, for pytorch.org/memory_viz. Costs some speed.
    """

    matmul: Literal["highest", "high", "medium"] = "high"
    convolutions: bool = True
    attention: Attention = "auto"
    fused_optimizer: bool = True
    channels_last: bool = False
    compile: Compile = "off"
    expandable_segments: bool = True
    memory_snapshot: bool = False


def apply(switches: CUDASwitches, *, network: nn.Module, precision: str | None = None) -> dict[str, Any]:
    """Set the process and the network as asked, and return by switch `{"on": ..., "reason": str}`.

    Call it when the Trainer is built, which sets the deterministic mode.

    Args:
        switches: What is wanted.
        network: Compiled and laid out as asked.
        precision: As the Trainer spells it; `16-mixed` scales gradients.

    Raises:
        UserError: If kernels were to be chosen by time in a run that must repeat bit for bit, or bfloat16 is
            asked of a GPU without it.
    """
    exact = torch.are_deterministic_algorithms_enabled()
    exact = exact and not torch.is_deterministic_algorithms_warn_only_enabled()
    if exact and switches.compile.startswith("max-autotune"):
        raise UserError(
            f"cuda.compile is {switches.compile}, which takes whichever kernel is faster at the time, and "
            "trainer.deterministic is true; give compile default, or deterministic false"
        )
    _check_bfloat16(precision)
    torch.set_float32_matmul_precision(switches.matmul)
    torch.backends.cudnn.allow_tf32 = switches.convolutions
    _attention(switches.attention)
    converted = channels_last(network) if switches.channels_last else 0
    blocks = 0
    if switches.compile != "off":
        blocks = compile_blocks(network, mode=None if switches.compile == "default" else switches.compile)
    products = {"highest": "float32", "high": "TF32 inputs", "medium": "bfloat16 inputs"}
    return {
        "matmul": _entry(switches.matmul != "highest", f"float32 products with {products[switches.matmul]}"),
        "convolutions": _entry(switches.convolutions, "TF32" if switches.convolutions else "float32"),
        "attention": _entry(switches.attention != "auto", f"{switches.attention} kernels"),
        "fused_optimizer": _entry(switches.fused_optimizer, "one kernel updates all parameters"),
        "channels_last": _entry(converted > 0, f"{converted} convolution weights"),
        "compile": _entry(blocks > 0, f"{blocks} blocks, {switches.compile}"),
        "deterministic": _entry(exact, "the same bit for bit" if exact else "sums may differ in last bits"),
    }


def channels_last(network: nn.Module) -> int:
    """Lay weights of 2-D and 3-D convolutions out with the channels last; return how many were changed."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    changed = 0
    for parameter in network.parameters():
        if (layout := layouts.get(parameter.dim())) is not None:
            parameter.data = parameter.data.contiguous(memory_format=layout)
            changed += 1
    return changed


def _attention(kernel: Attention) -> None:
    torch.backends.cuda.enable_flash_sdp(kernel in ("auto", "flash"))
    torch.backends.cuda.enable_mem_efficient_sdp(kernel in ("auto", "efficient"))
    torch.backends.cuda.enable_cudnn_sdp(kernel in ("auto", "cudnn"))
    torch.backends.cuda.enable_math_sdp(kernel in ("auto", "math"))


def _check_bfloat16(precision: str | None) -> None:
    if "bf16" not in str(precision) or not torch.cuda.is_available():
        return
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name()
        raise UserError(
            f"trainer.precision is {precision} and {name} has no bfloat16; give 16-mixed or 32-true"
        )


def _entry(on: bool, reason: str) -> dict[str, Any]:
    return {"on": on, "reason": reason}
