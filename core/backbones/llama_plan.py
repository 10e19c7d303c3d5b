"""How tensor parallelism cuts the modules of a Llama (Shoeybi et al. 2019, arXiv 1909.08053; 2205.05198)."""

from __future__ import annotations

from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
)

__all__ = ["tensor_parallel_plan"]


def tensor_parallel_plan(*, tied: bool, sequence: bool) -> dict[str, ParallelStyle]:
    """Return the style of each module by its name; see `Llama.tensor_parallel_plan`."""
    residual = Shard(1) if sequence else Replicate()
    plan: dict[str, ParallelStyle] = {}
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
        plan[f"layers.*.{name}"] = ColwiseParallel()
    for name in ("mlp.gate_proj", "mlp.up_proj"):
        plan[f"layers.*.{name}"] = ColwiseParallel()
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        plan[f"layers.*.{name}"] = RowwiseParallel(output_layouts=residual)
    if not tied:
        plan["embed_tokens"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=residual)
        plan["lm_head"] = ColwiseParallel(input_layouts=residual, output_layouts=Replicate())
    elif sequence:
        plan["embed_tokens"] = PrepareModuleOutput(
            output_layouts=Replicate(), desired_output_layouts=residual, use_local_output=True
        )
        plan["lm_head"] = PrepareModuleInput(
            input_layouts=(residual, None),
            desired_input_layouts=(Replicate(), None),
            use_local_output=True,
        )
    if sequence:
        for name in ("layers.*.input_layernorm", "layers.*.post_attention_layernorm", "norm"):
            plan[name] = SequenceParallel(use_local_output=True)
        for name in ("layers.*.self_attn", "layers.*.mlp"):
            plan[name] = PrepareModuleInput(
                input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),), use_local_output=True
            )
    return plan
