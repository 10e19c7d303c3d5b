"""The ways to attend within packed sequences, forward and backward, for lengths of several kinds.

Run: `python tests/benchmarks/packed_kernels.py [--device cuda] [--dtype bfloat16]`. Beside the kernels of
`core.backbones.packed_attention`, sequences of equal (or similar, padded) length are gathered into batches:
the way that was not taken. On a CPU with one thread the processor's clock counts.
"""

from __future__ import annotations

import argparse
import random
from functools import partial

import torch
import torch.nn.functional as F
from measure import CLOCKS, machine
from torch import Tensor

from core.accelerators.cpu import CPUSwitches, apply
from core.backbones.packed_attention import packed_attention, packed_kernel


def lengths_of(kind: str, tokens: int) -> list[int]:
    """Return random lengths that sum to `tokens`."""
    draw = random.Random(0)
    kinds = {
        "4-60": lambda: draw.randint(4, 60),
        "log-normal": lambda: min(1024, int(draw.lognormvariate(4.5, 1)) + 1),
        "256-2048": lambda: draw.randint(256, 2048),
        "all 64": lambda: 64,
    }
    found: list[int] = []
    while sum(found) < tokens:
        found.append(min(kinds[kind](), tokens - sum(found)))
    return found


def gathered(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], ratio: float) -> Tensor:
    """Return causal attention with sequences within `ratio` of a length padded to one batch."""
    starts = torch.tensor([0, *lengths]).cumsum(0)
    groups: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if groups and lengths[groups[-1][0]] <= lengths[number] * ratio:
            groups[-1].append(number)
        else:
            groups.append([number])
    places, back, begin = [], torch.empty(sum(lengths), dtype=torch.int64), 0
    for group in groups:
        own = torch.tensor([lengths[number] for number in group])[:, None]
        place = torch.arange(lengths[group[0]])
        index = starts[group][:, None] + torch.minimum(place, own - 1)
        real = (place < own).flatten()
        back[index.flatten()[real]] = torch.arange(begin, begin + real.numel())[real]
        begin += real.numel()
        places.append(index.flatten())
    every = torch.cat(places).to(query.device)
    parts = [x.index_select(0, every).split([len(p) for p in places]) for x in (query, key, value)]
    done = []
    for group, *part in zip(groups, *parts, strict=True):
        rows = (x.unflatten(0, (len(group), -1)).transpose(1, 2) for x in part)
        mixed = F.scaled_dot_product_attention(*rows, is_causal=True, enable_gqa=True)
        done.append(mixed.transpose(1, 2).flatten(0, 1))
    return torch.cat(done).index_select(0, back.to(query.device))


def main() -> None:
    """Print milliseconds, forward and backward, of every way for every kind of length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv_heads", type=int, default=8)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    device, dtype = options.device, getattr(torch, options.dtype)
    if device == "cpu":
        apply(CPUSwitches(onednn_matmul=False, threads=1))
    now = CLOCKS["processor" if device == "cpu" else "wall"]
    print(f"{machine()}; chosen: {packed_kernel(device, dtype, head_width=options.width)}")
    kernels = ["sequences", "mask", *(["varlen"] if device == "cuda" and dtype != torch.float32 else [])]
    for tokens in options.tokens:
        for kind in ("4-60", "log-normal", "256-2048", "all 64"):
            lengths = lengths_of(kind, tokens)
            bounds = torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)
            torch.manual_seed(0)
            heads = (options.heads, options.kv_heads, options.kv_heads)
            given = [torch.randn(tokens, h, options.width, device=device, dtype=dtype) for h in heads]
            given = [x.requires_grad_() for x in given]
            longest = max(lengths)
            ways = {
                name: partial(packed_attention, *given, bounds, max_seqlen=longest, kernel=name)
                for name in kernels
            }
            ways |= {
                name: partial(gathered, *given, lengths, ratio)
                for name, ratio in (("equal lengths", 1.0), ("within 1.25", 1.25), ("within 2", 2.0))
            }
            best = dict.fromkeys(ways, float("inf"))
            for _ in range(options.rounds):
                for name, way in ways.items():
                    start = now()
                    way().square().sum().backward()
                    if device == "cuda":
                        torch.cuda.synchronize()
                    best[name] = min(best[name], (now() - start) * 1e3)
            row = "  ".join(f"{name} {value:.1f}" for name, value in best.items())
            print(f"{tokens} tokens, lengths {kind} ({len(lengths)}): {row}", flush=True)


if __name__ == "__main__":
    main()
