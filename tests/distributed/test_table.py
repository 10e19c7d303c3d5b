"""N processes train what one does: losses of 20 steps and final weights, for every way to spread a run.

`python tests/distributed/test_table.py` prints the whole table with the measured differences.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

STEPS = 20
LIMITS = {"32-true": 1e-5, "64-true": 1e-8}


@dataclass(frozen=True)
class Row:
    """One way to spread a run over so many processes."""

    name: str
    network: str
    world: int
    strategy: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)

    def spec(self, precision: str) -> dict[str, Any]:
        name = f"{self.title} {precision}".replace(" ", "-")
        return {**self.more, "name": name, "network": self.network, "strategy": self.strategy} | {
            "precision": precision
        }

    @property
    def title(self) -> str:
        return f"{self.network} {self.name} {self.world}"

    @property
    def alone(self) -> dict[str, Any]:
        """The same run in one process."""
        return {**self.more, "network": self.network, "strategy": {}}


CLIPPED = {"clip": 0.3, "accumulate": 2}
THAWING = {"freeze": {"patterns": ["layers.0", "embed_tokens"], "until": 8}}
LLAMA = [
    Row("ddp", "llama", 2, {"replicate": 2}),
    Row("ddp", "llama", 4, {"replicate": 4}, CLIPPED),
    Row("fsdp2", "llama", 2, {"shard": 2}, CLIPPED),
    Row("fsdp2", "llama", 4, {"shard": 4}),
    Row("hsdp", "llama", 4, {"replicate": 2, "shard": 2}, CLIPPED),
    Row("tp", "llama", 2, {"tensor": 2}, CLIPPED),
    Row("tp", "llama", 4, {"tensor": 4}),
    Row("tp+sequence", "llama", 2, {"tensor": 2, "sequence": True}, CLIPPED),
    Row("tp+sequence", "llama", 4, {"tensor": 4, "sequence": True}),
    Row("fsdp x tp", "llama", 4, {"shard": 2, "tensor": 2}, CLIPPED),
    Row("context", "llama", 2, {"context": 2}, CLIPPED),
    Row("context", "llama", 4, {"context": 4}),
    # beyond what the axes do one by one
    Row("ddp x context", "llama", 4, {"replicate": 2, "context": 2}),
    Row("fsdp x context", "llama", 4, {"shard": 2, "context": 2}),
    Row("ddp x tp", "llama", 4, {"replicate": 2, "tensor": 2, "sequence": True}, CLIPPED),
    Row("tied fsdp2", "llama", 2, {"shard": 2}, {"sizes": {"tied": True, "kv_heads": 2}}),
    Row("tied tp", "llama", 2, {"tensor": 2, "sequence": True}, {"sizes": {"tied": True, "kv_heads": 2}}),
    Row("grouped context", "llama", 4, {"context": 4}, {"sizes": {"kv_heads": 2}}),
    Row("thawing ddp", "llama", 2, {"replicate": 2}, THAWING),
    Row("thawing fsdp2", "llama", 2, {"shard": 2}, THAWING),
    Row("thawing tp", "llama", 2, {"tensor": 2}, THAWING),
    Row("full recomputing", "llama", 2, {"shard": 2, "checkpointing": "full"}),
    Row("selective recomputing", "llama", 2, {"tensor": 2, "checkpointing": "selective"}),
]
DOMAINS = [
    Row(name, network, world, {axis: world}, more)
    for network in ("ttm", "scot", "fno")
    for name, axis, more in (("ddp", "replicate", CLIPPED), ("fsdp2", "shard", {}))
    for world in (2, 4)
]
TABLE = [*LLAMA, *DOMAINS]
FAST = {  # a tenth of the table: every axis once, in two processes
    ("llama fsdp2 2", "64-true"),
    ("llama tp+sequence 2", "64-true"),
    ("llama context 2", "64-true"),
    ("llama thawing ddp 2", "64-true"),
    ("ttm ddp 2", "32-true"),
}
CASES = [(row, precision) for row in TABLE for precision in LIMITS]


def chosen(request: pytest.FixtureRequest) -> list[tuple[Row, str]]:
    """Return the cases that this session runs: processes are started once for all of them."""
    wanted = {
        item.callspec.params["case"]
        for item in request.session.items
        if "case" in getattr(getattr(item, "callspec", None), "params", {})
    }
    return [case for case in CASES if case_id(case) in wanted]


def case_id(case: tuple[Row, str]) -> str:
    row, precision = case
    return f"{row.title} {precision}"


def marked(case: tuple[Row, str]) -> Any:
    fast = (case[0].title, case[1]) in FAST
    return pytest.param(case_id(case), marks=[] if fast else pytest.mark.slow)


@pytest.fixture(scope="module")
def spread(request, in_processes, tmp_path_factory) -> dict[str, dict]:
    """What every chosen row left, run in two or four processes."""
    cases = chosen(request)
    left: dict[str, dict] = {}
    for world in sorted({row.world for row, _ in cases}):
        own = [(row, precision) for row, precision in cases if row.world == world]
        folder = tmp_path_factory.mktemp(f"world{world}")
        specs = [row.spec(precision) for row, precision in own]
        results = in_processes(specs, world, folder, limit=150 + 30 * len(specs))
        left |= {case_id(case): results[spec["name"]] for case, spec in zip(own, specs, strict=True)}
    return left


@pytest.fixture(scope="module")
def alone(rows_module) -> Any:
    """Run a row in this process, once for all the ways to spread it."""
    known: dict[str, dict] = {}

    def run(row: Row, precision: str) -> dict:
        key = f"{row.alone} {precision}"
        if key not in known:
            known[key] = rows_module.run({**row.alone, "precision": precision})
        return known[key]

    return run


def differences(one: dict, many: dict) -> tuple[float, float]:
    """Return the largest differences of losses (relative) and of weights."""
    losses = max(abs(a - b) / abs(a) for a, b in zip(one["losses"], many["losses"], strict=True))
    weights = max(
        float((one["weights"][name] - many["weights"][name]).abs().max()) for name in one["weights"]
    )
    return losses, weights


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", [marked(case) for case in CASES])
def test_processes_train_what_one_does(case, spread, alone):
    row, precision = next(each for each in CASES if case_id(each) == case)
    one, many = alone(row, precision), spread[case]
    losses, weights = differences(one, many)
    replicas = row.strategy.get("replicate", 1) * row.strategy.get("shard", 1)

    assert len(one["losses"]) >= STEPS
    assert len(set(one["losses"])) > STEPS / 2
    assert losses <= LIMITS[precision]
    assert precision == "32-true" or weights <= LIMITS[precision]
    assert many["logged"] == pytest.approx(one["logged"], rel=2e-5), "one rank's share is logged"
    assert precision == "32-true" or many["norms"] == pytest.approx(one["norms"], rel=1e-6)
    assert [rows * replicas for rows in many["rows"]] == one["rows"], "the global batch is not kept"
    assert many["drift"] == 0, "ranks that hold the same weights drifted apart"
    assert many["computing"] < 20, "seconds of the processor, which others on the machine do not change"


def main() -> None:
    """Print the table."""
    import importlib.util
    import logging
    import sys
    import warnings

    warnings.filterwarnings("ignore")
    modules = {}
    for name in ("conftest", "rows"):
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        modules[name] = importlib.util.module_from_spec(spec)
        sys.modules[name] = modules[name]
        spec.loader.exec_module(modules[name])
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    print(
        f"{'network, way, processes':34} {'losses f32':>10} {'losses f64':>10} {'weights f64':>11} {'s':>5}"
    )
    for world in (2, 4):
        own = [
            row for row in TABLE if row.world == world and any(w in row.title for w in sys.argv[1:] or [""])
        ]
        specs = [row.spec(precision) for row in own for precision in LIMITS]
        with tempfile.TemporaryDirectory() as folder:
            left = modules["conftest"].run_in_processes(specs, world, Path(folder), limit=3000)
        for row in own:
            pairs = [
                (modules["rows"].run({**row.alone, "precision": p}), left[row.spec(p)["name"]])
                for p in LIMITS
            ]
            (single, _), (double, weights) = (differences(*pair) for pair in pairs)
            seconds = pairs[1][1]["seconds"]
            print(f"{row.title:34} {single:10.1e} {double:10.1e} {weights:11.1e} {seconds:5.1f}", flush=True)


if __name__ == "__main__":
    main()
