"""Llama, a decoder of tokens (Touvron et al. 2023, arXiv 2302.13971 and 2307.09288).

Pre-norm residual blocks of rotary attention and a gated linear unit, without biases and without dropout.
Parameters are named as in the Hugging Face layout, less its leading `model.`; the module
`core.checkpoints.official.llama` reads and writes the official layouts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.backbones.cross_entropy import cross_entropy, linear_cross_entropy
from core.backbones.decoder_block import DecoderAttention, DecoderBlock, SequenceBounds, causal_mask
from core.backbones.packed_attention import packed_positions
from core.backbones.rmsnorm import RMSNorm
from core.backbones.rope import Rope
from core.backbones.sizes import size
from core.errors import UserError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.tensor.parallel import ParallelStyle

    from core.backbones.kv_cache import KVCache
    from core.backbones.ulysses import Context

__all__ = ["Llama", "LlamaOutput", "llama_1b", "llama_7b", "llama_8b", "llama_70b", "llama_tiny"]

_LLAMA_3_1: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_LLAMA_3_2 = {**_LLAMA_3_1, "factor": 32.0}


@dataclass
class LlamaOutput:
    """Output of the network.

    Args:
        logits: `(B, S, V)`, of the token after each; None where labels were given.
        hidden: `(B, S, D)`, what they were computed from: the last block's output after the last norm.
        cache: The cache that was given, with the new tokens in it.
        loss: Summed cross entropy of the labels that were given, in nats, and their number, as
            `core.objectives.next_token` returns them.
    """

    logits: Tensor | None
    hidden: Tensor
    cache: KVCache | None = None
    loss: tuple[Tensor, Tensor] | None = None


class Llama(nn.Module):
    """A decoder-only transformer over a vocabulary of tokens.

    Args:
        vocabulary: Number of tokens, rows of the embedding.
        width: Features of a token.
        depth: Number of blocks.
        heads: Query heads.
        kv_heads: Key and value heads, each serving `heads / kv_heads` query heads; None is `heads`.
        ffn: Inner width of the gated linear unit; None is two thirds of `4 · width`, rounded up to a multiple
            of 256.
        head_width: Features of a head; None is `width / heads`.
        context: Longest sequence that it is meant for; it limits nothing and is written to configurations.
        theta: Base of the rotary frequencies.
        rope_scaling: How they are stretched for long contexts (see `core.backbones.rope.Rope`).
        tied: Whether the embedding also makes the logits.
        eps: Of the norms.
        initial_std: Standard deviation of all matrices and embeddings at first.
        scaled_residual: Whether the two matrices that write to the residual stream begin smaller by
            `sqrt(2 · depth)`.

    Raises:
        UserError: If the sizes do not fit each other.
    """

    tied_parameters = ("lm_head.weight",)  # official files of tied networks may hold it all the same

    def __init__(
        self,
        vocabulary: int = 32_000,
        width: int = 4096,
        depth: int = 32,
        heads: int = 32,
        kv_heads: int | None = None,
        ffn: int | None = None,
        head_width: int | None = None,
        context: int = 4096,
        theta: float = 10_000.0,
        rope_scaling: dict[str, Any] | None = None,
        tied: bool = False,
        eps: float = 1e-5,
        initial_std: float = 0.02,
        scaled_residual: bool = False,
    ) -> None:
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        ffn = -(-8 * width // 3 // 256) * 256 if ffn is None else ffn
        if head_width is None and width % heads:
            raise UserError(f"{heads} heads must divide the width {width}, or head_width be given")
        if kv_heads < 1 or heads % kv_heads:
            raise UserError(f"{kv_heads} key/value heads must divide {heads} heads")
        head_width = width // heads if head_width is None else head_width
        self.settings: dict[str, Any] = {
            "vocabulary": vocabulary, "width": width, "depth": depth, "heads": heads, "kv_heads": kv_heads,
            "ffn": ffn, "head_width": head_width, "context": context, "theta": theta,
            "rope_scaling": rope_scaling, "tied": tied, "eps": eps, "initial_std": initial_std,
            "scaled_residual": scaled_residual,
        }  # fmt: skip
        self._context: Context | None = None
        self.embed_tokens = nn.Embedding(vocabulary, width)
        self.rope = Rope(head_width, theta=theta, scaling=rope_scaling)
        self.layers = nn.ModuleList(
            DecoderBlock(width, heads=heads, kv_heads=kv_heads, head_width=head_width, ffn=ffn, eps=eps)
            for _ in range(depth)
        )
        self.norm = RMSNorm(width, eps=eps)
        self.lm_head = TiedHead() if tied else nn.Linear(width, vocabulary, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all matrices, set the norms to one, and compute the rotary frequencies anew."""
        std = self.settings["initial_std"]
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                writes = self.settings["scaled_residual"] and name.endswith(("o_proj", "down_proj"))
                nn.init.normal_(
                    module.weight, std=std / math.sqrt(2 * self.settings["depth"]) if writes else std
                )
            elif isinstance(module, RMSNorm | Rope):
                module.reset_parameters()

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the decoder's blocks in order."""
        yield from self.layers

    def tensor_parallel_plan(self, sequence: bool = False) -> dict[str, ParallelStyle]:
        """Return how each module is cut over the ranks of a tensor-parallel group.

        Heads and the inner width are cut over the ranks, whose number must divide `kv_heads`; so is the
        vocabulary of the embedding and of the head, unless they are tied: then both are replicated. With
        `sequence` norms and residuals are cut along the sequence.
        """
        return _tensor_parallel_plan(tied=self.settings["tied"], sequence=sequence)

    def context_parallel(self, group: ProcessGroup | None) -> None:
        """Cut sequences over the ranks of a group from now on; None ends it.

        `forward` is then given this rank's contiguous slice of the sequence, all slices equally long.

        Raises:
            UserError: If the ranks do not divide the heads.
        """
        from core.backbones.ulysses import Context

        context = None if group is None else Context(group)
        if context is not None and self.settings["heads"] % context.size:
            raise UserError(f"{context.size} context ranks must divide {self.settings['heads']} heads")
        self._context = context
        for module in self.modules():
            if isinstance(module, DecoderAttention):
                module.context = context

    def forward(
        self,
        ids: Tensor,
        *,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        cache: KVCache | None = None,
        last: int | None = None,
        labels: Tensor | None = None,
        ignore: int = -100,
    ) -> LlamaOutput:
        """Return the logits of the token after each.

        Args:
            ids: `(B, S)` int64.
            positions: `(B, S)` int64; None counts real tokens: from 0, from the cache's last one, from where
                a packed sequence begins, or from where this rank's slice begins.
            mask: `(B, S)`, non-zero for real tokens, zero for padding; None means that all are real.
            cu_seqlens: `(sequences + 1,)` int32, for one row that holds several sequences (`B` is 1): where
                each begins, and the end. With a context group both count in the whole row.
            max_seqlen: Length of the longest of them.
            cache: Keys and values of the tokens before; the new ones are added.
            last: Compute the logits of so many last tokens only.
            labels: `(B, S)` int64, the token after each. Given, the loss is returned and the logits are not,
                which is faster and needs less memory than to compute it from them.
            ignore: Label of positions that do not count.

        Raises:
            UserError: If the arguments exclude each other.
        """
        if cu_seqlens is not None and (cache is not None or mask is not None or ids.shape[0] != 1):
            raise UserError("packed sequences stand in one row, without a mask or a cache")
        context = self._context
        if context is not None and cache is not None:
            raise UserError("a cache cannot be used while sequences are cut over ranks")
        if cache is not None:
            counted = cache.next_positions(mask, shape=(ids.shape[0], ids.shape[1]), device=ids.device)
            mask = cache.valid
            total = cache.length + ids.shape[1]
        else:
            start, total = 0, ids.shape[1]
            if context is not None:
                start, total = context.rank * total, context.size * total
                mask = None if mask is None else context.gather(mask)
            counted = _positions(total, mask, cu_seqlens, ids.device)[:, start : start + ids.shape[1]]
        x = self.embed_tokens(ids)
        cos, sin = self.rope(counted if positions is None else positions)
        allowed = None
        if mask is not None:
            queries = ids.shape[1] if context is None else total
            allowed = _allowed(mask[:, :total].bool(), queries)
        packed = None if cu_seqlens is None else SequenceBounds(cu_seqlens, max_seqlen)
        for layer, block in enumerate(self.layers):
            x = block(x, cos=cos, sin=sin, mask=allowed, packed=packed, cache=cache, layer=layer)
        if cache is not None:
            cache.advance(ids.shape[1])
        hidden = self.norm(x)
        if last is not None:
            hidden = hidden[:, -last:]
        if labels is not None:
            return LlamaOutput(None, hidden, cache, self._loss(hidden, labels, ignore))
        return LlamaOutput(self._logits(hidden), hidden, cache)

    def _logits(self, hidden: Tensor) -> Tensor:
        tied = (self.embed_tokens.weight,) if isinstance(self.lm_head, TiedHead) else ()
        logits: Tensor = self.lm_head(hidden, *tied)
        return logits

    def _loss(self, hidden: Tensor, labels: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
        flat = labels.reshape(-1)
        head = self.lm_head
        weight = self.embed_tokens.weight if isinstance(head, TiedHead) else head.weight
        # Where the head is cut over ranks, adapted or watched, it is called as it is.
        plain = type(head) in (nn.Linear, TiedHead) and type(weight.data) is Tensor
        if plain and not head._forward_pre_hooks and not head._forward_hooks:
            total = linear_cross_entropy(hidden.flatten(0, 1), weight, flat, ignore=ignore)
        else:
            total = cross_entropy(self._logits(hidden).flatten(0, 1), flat, ignore=ignore)
        return total, flat.ne(ignore).sum().to(total.dtype)


class TiedHead(nn.Module):
    """Makes logits with the embedding's weights: `hidden · weightsᵀ`."""

    def forward(self, hidden: Tensor, weights: Tensor) -> Tensor:
        """Map `(B, S, D)` and `(V, D)` to `(B, S, V)`."""
        return F.linear(hidden, weights)


def _tensor_parallel_plan(*, tied: bool, sequence: bool) -> dict[str, ParallelStyle]:
    """Return the style of each module by its name (arXiv 1909.08053; with sequences 2205.05198)."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        PrepareModuleInput,
        PrepareModuleOutput,
        RowwiseParallel,
        SequenceParallel,
    )

    residual = Shard(1) if sequence else Replicate()
    plan: dict[str, ParallelStyle] = {}
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"):
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
            input_layouts=(residual, None), desired_input_layouts=(Replicate(), None), use_local_output=True
        )
    if sequence:
        for name in ("layers.*.input_layernorm", "layers.*.post_attention_layernorm", "norm"):
            plan[name] = SequenceParallel(use_local_output=True)
        for name in ("layers.*.self_attn", "layers.*.mlp"):
            plan[name] = PrepareModuleInput(
                input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),), use_local_output=True
            )
    return plan


def _positions(total: int, mask: Tensor | None, cu_seqlens: Tensor | None, device: torch.device) -> Tensor:
    """Return `(B or 1, total)` positions of tokens among their sequence's real ones; padding has 0."""
    if mask is not None:
        return (mask.long().cumsum(1) - 1).clamp_min(0)
    if cu_seqlens is not None:
        return packed_positions(cu_seqlens, total)[None]
    return torch.arange(total, device=device)[None]


def _allowed(real: Tensor, queries: int) -> Tensor:
    """Return `(B, 1, queries, T)`: real keys up to each query, and itself, so that padding sees something."""
    total = real.shape[1]
    seen = causal_mask(queries, total, real.device) & real[:, None, None]
    diagonal = torch.eye(total, dtype=torch.bool, device=real.device)[total - queries :]
    return seen | diagonal


llama_tiny = size(
    Llama, "A network over bytes for tests and demonstrations: 164 160 parameters.",
    vocabulary=256, width=64, depth=2, heads=4, context=256,
)  # fmt: skip

llama_1b = size(
    Llama, "Llama 3.2 1B: 1 235 814 400 parameters.",
    vocabulary=128_256, width=2048, depth=16, heads=32, kv_heads=8, ffn=8192, context=131_072,
    theta=500_000.0, rope_scaling=_LLAMA_3_2, tied=True,
)  # fmt: skip

llama_7b = size(
    Llama, "Llama 2 7B: 6 738 415 616 parameters.",
    vocabulary=32_000, width=4096, depth=32, heads=32, ffn=11_008, context=4096,
)  # fmt: skip

llama_8b = size(
    Llama, "Llama 3.1 8B: 8 030 261 248 parameters.",
    vocabulary=128_256, width=4096, depth=32, heads=32, kv_heads=8, ffn=14_336, context=131_072,
    theta=500_000.0, rope_scaling=_LLAMA_3_1,
)  # fmt: skip

llama_70b = size(
    Llama, "Llama 2 70B: 68 976 648 192 parameters.",
    vocabulary=32_000, width=8192, depth=80, heads=64, kv_heads=8, ffn=28_672, context=4096,
)  # fmt: skip
