"""Llama here against transformers' `LlamaForCausalLM`: a training step on a CPU, same weights and batch.

A step is forward pass, loss, backward pass, AdamW. The sizes are those of small published networks over
Llama's own vocabulary of 32 000 tokens, in float32.

*Apart*: each side in processes of its own, in turn, as its users run it. The reference: its default attention
(`sdpa`), its own loss, torch's default AdamW (a loop over parameters on a CPU), glibc's default allocator.
Ours: the loss from labels, fused AdamW, the CPU switches of `configs/trainer/cpu.yaml`.
*Together*: both in one process, alternating, with our allocator settings for both; the reference once with
torch's default AdamW and once with the fused one, so that only the formulation differs.

Losses and gradients are compared before anything is timed.

    .ci/peer transformers
    PYTHONPATH=. .bench/transformers/bin/python tests/benchmarks/llama_transformers.py [--size 15m]

Run it on a quiet machine; on a busy one take one thread and the processor's clock (`--threads 1 --clock
processor`). A ratio above 1 means that ours is faster or smaller.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from measure import CLOCKS, SIDES, alternate, in_turn, machine, peak_bytes, report, resident_peak
from torch import Tensor, nn

SIZES: dict[str, dict[str, Any]] = {
    "15m": {"hidden_size": 288, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 768},
    "42m": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1376},
}
for _size in SIZES.values():
    _size |= {"vocab_size": 32_000, "rms_norm_eps": 1e-5, "max_position_embeddings": 1024}
UNITS = {"training step": "ms", "resident peak": "MiB", "step bytes": "MiB"}


def main() -> int:
    """Run both comparisons."""
    parser = argparse.ArgumentParser(description="Llama here against that of transformers.")
    parser.add_argument("--size", choices=list(SIZES), default="15m")
    parser.add_argument("--kv_heads", type=int, help="key and value heads, if fewer")
    parser.add_argument("--untied", action="store_true", help="an output matrix beside the embedding")
    parser.add_argument("--only", choices=("apart", "together"), help="one comparison only")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each comparison")
    parser.add_argument("--processes", type=int, default=2, help="processes of each side, apart")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: for a busy machine")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.side:
        print(json.dumps(alone(options)))
        return 0
    print(f"{machine()}, {options.clock} time")
    print(f"size {options.size}, batch {options.batch} x {options.length} tokens, float32")
    if options.only != "together":
        apart(options)
    if options.only != "apart":
        together(options)
    return 0


def apart(options: argparse.Namespace) -> None:
    """Give each side processes of its own, in turn, set as its users have it."""
    arguments = ["--untied"] if options.untied else []
    for name in ("size", "kv_heads", "batch", "length", "rounds", "threads", "clock"):
        if (value := getattr(options, name)) is not None:
            arguments += [f"--{name}", str(value)]
    results = in_turn(__file__, arguments, options.processes)
    print(" apart (reference: sdpa, default AdamW and allocator; ours: fused AdamW, the CPU switches)")
    for what, unit in UNITS.items():
        report(what, {side: [result[what] for result in results[side]] for side in SIDES}, unit)


def together(options: argparse.Namespace) -> None:
    """Alternate both in one process with one allocator."""
    from core.accelerators.cpu import keep_freed_memory

    kept = keep_freed_memory()
    networks = {side: build(side, options) for side in SIDES}
    share_weights(networks)
    ids = draw(options)
    agree(networks, ids)
    ours = training_step("ours", networks["ours"], ids)
    for name, fused in (("default", False), ("fused", True)):
        steps = {
            "reference": training_step("reference", networks["reference"], ids, fused=fused),
            "ours": ours,
        }
        print(f" together ({kept or 'default allocator'}; AdamW of the reference: {name}, ours: fused)")
        times = alternate(steps, options.rounds, calls=1, clock=options.clock)
        report("training step", times, UNITS["training step"])


def alone(options: argparse.Namespace) -> dict[str, float]:
    """Measure one side in this process."""
    network = build(options.side, options)
    if options.side == "ours":
        from core.accelerators.cpu import CPUSwitches, apply

        apply(CPUSwitches(), network=network, rows=options.batch * options.length)
    step = training_step(options.side, network, draw(options), fused=options.side == "ours")
    times = alternate({options.side: step}, options.rounds, calls=1, clock=options.clock)[options.side]
    memory = resident_peak()
    return {
        "training step": statistics.median(times),
        "resident peak": memory,
        "step bytes": peak_bytes(step) / 2**20,
    }


def build(side: str, options: argparse.Namespace) -> nn.Module:
    """Build one side."""
    torch.manual_seed(0)
    config = {**SIZES[options.size], "tie_word_embeddings": not options.untied}
    config["num_key_value_heads"] = options.kv_heads or config["num_attention_heads"]
    if side == "ours":
        from core.checkpoints.official.llama import from_official_config

        return from_official_config(config)
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**config))


def share_weights(networks: dict[str, nn.Module]) -> None:
    """Give ours the reference's weights."""
    from core.checkpoints.official.llama import KEY_MAP
    from core.checkpoints.weights import load_weights

    own = networks["ours"].state_dict()
    state = networks["reference"].state_dict()
    load_weights({k: v for k, v in state.items() if KEY_MAP.our_name(k) in own}, networks["ours"])


def draw(options: argparse.Namespace) -> Tensor:
    """Return tokens."""
    shape = (options.batch, options.length)
    return torch.randint(0, 32_000, shape, generator=torch.Generator().manual_seed(0))


def loss_of(side: str, network: nn.Module, ids: Tensor) -> Tensor:
    """Return the mean loss of predicting each token after the first, as each side's users write it."""
    if side == "reference":
        return network(input_ids=ids, labels=ids).loss
    labels = torch.full_like(ids, -100)
    labels[:, :-1] = ids[:, 1:]
    total, count = network(ids, labels=labels).loss
    return total / count


def agree(networks: dict[str, nn.Module], ids: Tensor) -> None:
    """Stop unless both give the same loss and the same gradients."""
    from core.checkpoints.official.llama import KEY_MAP

    found: dict[str, dict[str, Tensor]] = {}
    for side, network in networks.items():
        network.zero_grad()
        loss = loss_of(side, network, ids)
        loss.backward()
        grads = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        named = KEY_MAP.to_official(grads) if side == "ours" else grads
        found[side] = {"loss": loss.detach(), **named}
        network.zero_grad()
    if found["ours"].keys() != found["reference"].keys():
        raise SystemExit("the networks have different parameters; nothing was timed")
    worst = {
        name: float((found["ours"][name] - value).abs().max() / value.abs().max())
        for name, value in found["reference"].items()
    }
    most = max(worst, key=lambda name: worst[name])
    if worst[most] > 1e-4:
        raise SystemExit(f"{most} differs by {worst[most]} of its largest value; nothing was timed")
    print(f" largest relative difference {worst[most]:.1e} ({most}), of the loss {worst['loss']:.1e}")


def training_step(side: str, network: nn.Module, ids: Tensor, *, fused: bool = True) -> Callable[[], None]:
    """Return one training step with AdamW."""
    settings: dict[str, Any] = {"fused": True} if fused else {}
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, **settings)

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        loss_of(side, network, ids).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    sys.exit(main())
