"""`dfm music fit` with each hardware file writes the metrics of the same run in one process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from in_process import dfm

from core.tracking.metrics_csv import read_metrics

RECIPE = """
about: {system: llama}
seed_everything: 1
model:
  class_path: apps.music.tasks.LanguageModelling
  init_args:
    network:
      class_path: core.backbones.llama.Llama
      init_args: {vocabulary: 257, width: 32, depth: 2, heads: 4, ffn: 48, context: 32}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 3.0e-3}}
    sample_tokens: 0
    restore_best: false
data:
  class_path: apps.music.data.Tokens
  init_args: {path: texts.jsonl, context: 32, batch_size: 8, fractions: [0.8, 0.1, 0.1], seed: 1}
trainer: {max_steps: 6, num_sanity_val_steps: 0, log_every_n_steps: 2, val_check_interval: 6,
  accelerator: cpu, gradient_clip_val: 0.5}
"""
TIED, UNTIED = "--model.network.tied=true", "--model.network.tied=false"
DOCUMENTS = "--data.packing=documents"
ADAPTED = "--model.adaptation=core.adaptation.DoRA"
WAYS = {
    "tensor, tied": ("tensor", 2, [TIED], []),
    "tensor": ("tensor", 2, [UNTIED], []),
    "tensor without sequence": ("tensor", 2, [UNTIED], ["--trainer.strategy.sequence=false"]),
    "tensor without sequence, tied": ("tensor", 2, [TIED], ["--trainer.strategy.sequence=false"]),
    "tensor, packed": ("tensor", 2, [UNTIED, DOCUMENTS], []),
    "ddp": ("ddp", 2, [TIED], []),
    "ddp, packed": ("ddp", 2, [TIED, DOCUMENTS], []),
    "fsdp": ("fsdp", 2, [TIED], []),
    "ddp, adapted": ("ddp", 2, [TIED, ADAPTED], []),
    "fsdp, adapted": ("fsdp", 2, [TIED, ADAPTED], []),
    "fsdp, packed": ("fsdp", 2, [UNTIED, DOCUMENTS], []),
    "context": ("context", 2, [TIED], []),
    "fsdp_tensor": ("fsdp_tensor", 4, [TIED], ["--trainer.strategy.tensor=2"]),
    "hsdp": ("hsdp", 4, [UNTIED], ["--trainer.strategy.shard=2"]),
}
FAST = "tensor, tied"
EQUAL = {"train_loss", "grad_norm", "grad_norm_max", "val_loss", "throughput/samples", "lr"}

pytestmark = pytest.mark.timeout(600)


def words(folder: Path, *more: str) -> list[str]:
    """Return what fits the recipe in a folder, on documents of very different lengths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [f"to be {number} or not, " * (1 + number % 7) for number in range(90)]
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    (folder / "learn.yaml").write_text(RECIPE)
    return ["music", "fit", "--config", "learn.yaml", *more]


def logged(folder: Path) -> list[dict[str, float]]:
    """Return the rows of the only run in a folder."""
    (run,) = folder.glob("runs/music/*/*")
    return read_metrics(run)


def picked(row: dict[str, float]) -> dict[str, float]:
    """Return what does not depend on the machine's speed."""
    return {name: value for name, value in row.items() if name in EQUAL}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], list[dict[str, float]]]:
    """Fit in this process, once for all the ways to spread a network."""
    known: dict[str, list[dict[str, float]]] = {}

    def fit(given: list[str]) -> list[dict[str, float]]:
        key = " ".join(given)
        if key not in known:
            folder = tmp_path_factory.mktemp("alone")
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                code, out, err = dfm(*words(folder, *given))
            assert code == 0, out + err
            known[key] = logged(folder)
        return known[key]

    return fit


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[] if way == FAST else pytest.mark.slow) for way in WAYS]
)
def test_a_hardware_file_changes_no_metric(way, alone, launching, tmp_path):
    file, processes, sizes, more = WAYS[way]
    many = ["--config", f"trainer/{file}", f"--trainer.devices={processes}", *more]
    given = words(tmp_path, *sizes, *many)
    started = launching.command(
        [sys.executable, "-m", "core.cli", *given], tmp_path, launching.environment(tmp_path)
    )
    one = alone(sizes)

    end = launching.outcome(started)

    assert end.codes == [0], end.out
    spread = logged(tmp_path)
    assert [row["step"] for row in spread] == [row["step"] for row in one]
    for row, wanted in zip(spread, one, strict=True):
        assert row.keys() == wanted.keys()
        assert picked(row) == pytest.approx(picked(wanted), rel=2e-5), f"step {row['step']}"
    assert {name for row in spread for name in row} >= {*EQUAL, "throughput/tokens_per_second"}
    rates = [row for row in spread if "throughput/tokens_per_second" in row]
    lengths = [row["throughput/tokens_per_second"] / row["throughput/samples_per_second"] for row in rates]
    assert lengths == pytest.approx([32.0] * len(rates)), "tokens of a whole row"


@pytest.mark.slow
def test_sizes_that_do_not_divide_are_said_once_before_any_step(launching, tmp_path):
    many = ["--config", "trainer/tensor", "--trainer.devices=2"]
    given = words(tmp_path, *many, "--model.network.ffn=49")
    started = launching.command(
        [sys.executable, "-m", "core.cli", *given], tmp_path, launching.environment(tmp_path)
    )

    end = launching.outcome(started)

    assert end.codes == [2], end.out
    (said,) = launching.sentences(end.out)
    assert "tensor is 2, which does not divide Llama's ffn, 49" in said


@pytest.mark.slow
def test_rows_that_cannot_be_cut_are_said_once_and_end_every_rank(launching, tmp_path):
    given = words(tmp_path, "--config", "trainer/tensor", "--data.context=15")

    end = launching.outcome(*launching.srun(tmp_path, [[*given, "--trainer.devices=2"]] * 2))

    assert end.codes == [2, 2], end.out
    (said,) = launching.sentences(end.out)
    assert "a row of 15 tokens cannot be cut into 2 equal slices" in said
