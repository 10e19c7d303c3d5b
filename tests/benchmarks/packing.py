"""Packing against padding: a small Llama on texts whose lengths are those of real ones.

Run: `python tests/benchmarks/packing.py [--steps 6] [--context 1024] [--device cuda]`. The texts are the
documentation strings in the source of Python's standard library, as bytes. All ways train on the same texts,
as many tokens to a batch as fit into `--tokens`: rows padded to the context, rows padded to the longest of
their batch, rows of similar length together padded to the longest, and packed rows. Counted are the texts'
own tokens, by the processor's clock on a CPU with one thread; steps alternate between the ways. Losses and
gradients of one batch, packed and padded, are compared first.
"""

from __future__ import annotations

import argparse
import ast
import random
import statistics
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from measure import CLOCKS, machine
from torch import Tensor, nn

from core.accelerators.cpu import CPUSwitches, apply
from core.backbones.llama import Llama
from core.backbones.packed_attention import KERNELS, packed_kernel
from core.data.packing import IGNORED, Packed, PackedBatch
from core.objectives.next_token import next_token

_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__"}


def texts(longest: int) -> list[bytes]:
    """Return the documentation strings of the standard library, cut to `longest` bytes."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[bytes, None] = {}
    for path in sorted(root.rglob("*.py")):
        if _LEFT_OUT & set(path.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        for node in ast.walk(tree):
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                found[text.encode()[:longest]] = None
    return list(found)


class Texts(torch.utils.data.Dataset):
    """The texts as tokens, indexed by `(epoch, index)`."""

    def __init__(self, entries: list[bytes]) -> None:
        self.tokens = [torch.tensor(list(entry)) for entry in entries]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, where: tuple[int, int]) -> Tensor:
        return self.tokens[where[1]]


Batch = tuple[Tensor, dict, Tensor, int]  # ids, the network's other arguments, labels, real tokens


def padded(rows: list[Tensor], length: int) -> Batch:
    """Return texts in rows of `length`; causal attention needs no mask where padding stands last."""
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    labels = torch.full_like(ids, IGNORED)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
        labels[number, : len(row) - 1] = row[1:]
    return ids, {}, labels, sum(map(len, rows))


def in_padded_rows(data: Texts, tokens: int, context: int, way: str, seed: int) -> Iterator[Batch]:
    """Yield batches of at most `tokens` places, padding and all."""
    order = list(range(len(data)))
    random.Random(seed).shuffle(order)
    if way == "similar":
        order.sort(key=lambda number: len(data.tokens[number]))  # stable: equal lengths stay shuffled
    batches: list[list[int]] = [[]]
    longest = 0
    for number in order:
        size = context if way == "context" else max(longest, len(data.tokens[number]))
        if batches[-1] and size * (len(batches[-1]) + 1) > tokens:
            batches.append([])
            size = context if way == "context" else len(data.tokens[number])
        batches[-1].append(number)
        longest = size
    random.Random(seed + 1).shuffle(batches)
    for batch in batches:
        rows = [data.tokens[number] for number in batch]
        yield padded(rows, context if way == "context" else max(map(len, rows)))


def in_packed_rows(data: Texts, tokens: int, context: int, seed: int) -> Iterator[Batch]:
    """Yield batches of packed rows."""
    rows = Packed(data, list(map(len, data.tokens)), capacity=context, seed=seed)
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    size = max(1, tokens // context)
    for first in range(0, len(order), size):
        own = order[first : first + size]
        batch = PackedBatch.stack([rows[0, row] for row in own])
        real = sum(len(piece) for row in own for piece in rows.row(0, row))
        yield batch.ids.view(1, -1), batch.arguments(), batch.labels.view(1, -1), real


def moved(batch: Batch, device: str) -> Batch:
    """Return a batch on the device."""
    ids, more, labels, real = batch
    on_device = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in more.items()}
    return ids.to(device), on_device, labels.to(device), real


def loss_of(network: nn.Module, batch: Batch) -> Tensor:
    """Return the mean loss of a batch."""
    ids, more, labels, _ = batch
    total, count = next_token(network(ids, **more).logits, labels)
    return total / count.clamp(min=1)


def difference(network: nn.Module, data: Texts, context: int, device: str) -> tuple[float, float]:
    """Return the largest differences of loss and gradients, packed against padded, on twenty texts."""
    few = Texts([])
    few.tokens = data.tokens[:20]
    packed = moved(next(in_packed_rows(few, 10**9, context, 0)), device)
    rows = moved(padded(few.tokens, max(map(len, few.tokens))), device)
    losses, grads = [], []
    for batch in (packed, rows):
        loss = loss_of(network, batch)
        losses.append(float(loss.detach()))
        grads.append(torch.autograd.grad(loss, list(network.parameters())))
    return abs(losses[0] - losses[1]), max(float((a - b).abs().max()) for a, b in zip(*grads, strict=True))


def main() -> None:
    """Print tokens per second and the share of padding, each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each way")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=4096, help="places of a batch")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    options = parser.parse_args()
    device = options.device
    torch.manual_seed(0)
    network = Llama(
        vocabulary=256, width=options.width, depth=options.depth, heads=max(1, options.width // 64), tied=True
    )
    if device == "cpu":
        apply(CPUSwitches(threads=options.threads), network=network, rows=options.tokens)
    network.to(device)
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    data = Texts(texts(options.context))
    lengths = sorted(map(len, data.tokens))
    places = [lengths[int(share * (len(lengths) - 1))] for share in (0.1, 0.5, 0.9, 0.99, 1)]
    print(machine())
    print(
        f"{len(lengths)} texts, bytes at 10, 50, 90, 99, 100 %: {places}, "
        f"mean {sum(lengths) / len(lengths):.0f}"
    )
    kernel = packed_kernel(device, dtype)
    print(f"kernel of packed attention: {kernel} ({KERNELS[kernel]})")
    apart = difference(network, data, options.context, device)
    print(f"packed against padded, float32: loss {apart[0]:.1e}, gradients {apart[1]:.1e}")

    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    how = (data, options.tokens, options.context)
    ways: dict[str, Callable[[int], Iterator[Batch]]] = {
        "padded to the context": lambda seed: in_padded_rows(*how, "context", seed),
        "padded to the longest of a batch": lambda seed: in_padded_rows(*how, "longest", seed),
        "similar lengths together, padded": lambda seed: in_padded_rows(*how, "similar", seed),
        "packed": lambda seed: in_packed_rows(*how, seed),
    }
    shares = {}
    for way, batches in ways.items():
        real, all_places = map(sum, zip(*((b[3], b[0].numel()) for b in batches(0)), strict=True))
        shares[way] = 1 - real / all_places
    running = {way: batches(0) for way, batches in ways.items()}
    rates: dict[str, list[float]] = {way: [] for way in ways}

    now = CLOCKS["processor" if device == "cpu" and options.threads == 1 else "wall"]

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def step(way: str) -> float:
        batch = moved(next(running[way]), device)
        wait()
        start = now()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=options.bf16):
            loss = loss_of(network, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        wait()
        return batch[3] / (now() - start)

    for turn in range(options.steps + 2):
        for way in ways if turn % 2 == 0 else reversed(ways):
            rate = step(way)
            if turn >= 2:
                rates[way].append(rate)
    print(f"{'':34}{'padding':>9}{'tokens/s':>11}{'range':>18}{'packed is':>11}")
    packed = statistics.median(rates["packed"])
    for way, found in rates.items():
        middle = statistics.median(found)
        spread = f"{min(found):.0f}-{max(found):.0f}"
        print(f"{way:34}{shares[way]:>9.1%}{middle:>11.0f}{spread:>18}{packed / middle:>10.2f}x")


if __name__ == "__main__":
    main()
