"""What the benchmarks beside peers share: alternating rounds, bytes of a step, and lines of ratios.

A ratio is the reference's figure over ours: above 1 means that ours is faster or smaller.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

SIDES = ("reference", "ours")


def machine() -> str:
    """Return torch's version, the threads and the processor."""
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    cpu = names[0] if names else platform.machine()
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads, {cpu}"


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


def alternate(
    runs: dict[str, Callable[[], None]], rounds: int, calls: int = 3, clock: str = "wall"
) -> dict[str, list[float]]:
    """Return milliseconds a call by side, one figure a round; every other round in reverse order.

    The processor's clock, at one thread, is for a machine that others use; waiting threads would count in it.
    """
    now = CLOCKS[clock]
    for run in runs.values():
        for _ in range(3):  # allocator, primitives of new shapes
            run()
    times: dict[str, list[float]] = {side: [] for side in runs}
    for turn in range(rounds):
        for side in runs if turn % 2 == 0 else reversed(runs):
            start = now()
            for _ in range(calls):
                runs[side]()
            times[side].append((now() - start) / calls * 1e3)
    return times


def peak_bytes(step: Callable[[], None]) -> int:
    """Return the largest sum of bytes that one step holds at once beyond what stood before it."""
    step()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def resident_peak() -> float:
    """Return the largest resident size of this process in MiB (`ru_maxrss` keeps the parent's)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


def in_turn(script: str, arguments: Sequence[str], processes: int) -> dict[str, list[dict[str, float]]]:
    """Run `script … --side SIDE` in processes of their own, in turn, and read the JSON each ends with."""
    results: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for turn in range(processes):
        for side in SIDES if turn % 2 == 0 else reversed(SIDES):
            command = [sys.executable, script, "--side", side, *arguments]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
            results[side].append(json.loads(done.stdout.splitlines()[-1]))
    return results


def report(what: str, figures: dict[str, list[float]], unit: str) -> None:
    """Print medians, and the ratio of each round with its range."""
    ratios = sorted(a / b for a, b in zip(figures["reference"], figures["ours"], strict=True))
    medians = {side: statistics.median(values) for side, values in figures.items()}
    print(
        f"  {what}: reference {medians['reference']:.1f} {unit}, ours {medians['ours']:.1f} {unit}, "
        f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        flush=True,
    )
