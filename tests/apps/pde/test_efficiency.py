"""`dfm pde efficiency` over cells that are finished already: gains, their bounds, and options that differ."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from in_process import dfm

from core.cli.efficiency import _check_words

Cells = Callable[[dict[str, dict[int, float]]], list[str]]


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cells:
    """Return a function that writes recipes with finished cells and returns the words of their comparison."""
    monkeypatch.chdir(tmp_path)

    def write(errors: dict[str, dict[int, float]]) -> list[str]:
        words = [
            "pde",
            "efficiency",
            "--out",
            "out",
            "--trajectories",
            *map(str, next(iter(errors.values()))),
        ]
        for model, by_size in errors.items():
            Path(model).write_text("about: {system: fno, test_after_fit: true}\nmodel: {}\ndata: {}\n")
            words += ["--config", model]
            for size, error in by_size.items():
                folder = Path("out") / f"{model}-{size}" / "seed0"
                folder.mkdir(parents=True)
                head = "dataset,model,relative_l1,relative_l1_mean,relative_l2,vrmse"
                (folder / "results.csv").write_text(f"{head}\nset,net{f',{error}' * 4}\n")
                (folder / "options.json").write_text(json.dumps({"recipe": model, "options": []}))
        return words

    return write


def gains() -> list[dict[str, str]]:
    return list(csv.DictReader(Path("out/gains.csv").open()))


def test_a_model_that_never_reaches_the_baseline_has_a_bound(cells):
    words = cells({"fno.yaml": {4: 4.0, 16: 2.0}, "net.yaml": {4: 3.0, 16: 2.9}})

    code, out, err = dfm(*words, "--baseline", "fno.yaml")

    assert code == 0, out + err
    first, last = gains()
    assert (first["bound"], float(first["efficiency_gain"])) == ("at_least", 1.0)
    assert (last["bound"], float(last["efficiency_gain"])) == ("at_most", 1.0)
    assert float(last["accuracy_gain"]) == pytest.approx(2.0 / 2.9)
    assert "≥ 1" in out and "≤ 1" in out and "relative_l1 [%]" in out


def test_a_gain_within_the_curve_is_exact(cells):
    words = cells({"fno.yaml": {4: 4.0, 16: 2.0}, "net.yaml": {4: 2.0, 16: 1.0}})

    code, out, err = dfm(*words, "--baseline", "fno.yaml")

    assert code == 0, out + err
    assert [(row["bound"], float(row["efficiency_gain"])) for row in gains()] == [
        ("at_least", 1.0),
        ("exact", 4.0),
    ]


@pytest.mark.parametrize("error", [float("nan"), float("inf"), 0.0])
def test_a_cell_without_an_error_is_left_out_of_the_gains_in_one_line(cells, error):
    words = cells({"fno.yaml": {4: 4.0, 16: 2.0}, "net.yaml": {4: 3.0, 16: error}})

    code, out, err = dfm(*words, "--baseline", "fno.yaml")

    assert code == 0, out + err
    assert [row["trajectories"] for row in gains()] == ["4"]
    assert sum("left out of the gains" in line for line in out.splitlines()) == 1
    assert f"net.yaml at 16 ({error:g})" in out
    assert Path("out/efficiency.png").stat().st_size > 10_000


def test_without_a_cell_of_the_baseline_there_are_no_gains(cells):
    words = cells({"fno.yaml": {4: float("nan")}, "net.yaml": {4: 3.0}})

    code, out, err = dfm(*words, "--baseline", "fno.yaml")

    assert code == 0, out + err
    assert not Path("out/gains.csv").exists()


def test_cells_of_other_options_are_refused_and_of_the_same_ones_are_not(cells):
    words = cells({"fno.yaml": {4: 4.0}})
    (Path("out") / "fno.yaml-4" / "seed0" / "options.json").write_text(
        json.dumps({"recipe": "fno.yaml", "options": ["--trainer.max_epochs=2"]})
    )

    code, _, err = dfm(*words, "--", "--trainer.max_epochs", 3)
    again, out, _ = dfm(*words, "--", "--trainer.max_epochs", 2)

    assert code == 2 and err.strip().count("\n") == 0
    assert "--trainer.max_epochs=2" in err and "--trainer.max_epochs=3" in err and "another --out" in err
    assert again == 0 and "run folder" not in out


def test_cells_of_another_recipe_or_without_a_note_are_refused(cells):
    words = cells({"fno.yaml": {4: 4.0}})
    note = Path("out") / "fno.yaml-4" / "seed0" / "options.json"
    note.write_text(json.dumps({"recipe": "other.yaml", "options": []}))

    code, _, err = dfm(*words)
    note.unlink()
    bare, _, told = dfm(*words)

    assert code == 2 and "other.yaml" in err
    assert bare == 2 and "another --out" in told


def test_a_cell_that_was_stopped_before_its_note_is_begun_anew(tmp_path):
    (tmp_path / "options.json.17.tmp").write_text("{")

    _check_words(tmp_path, "fno.yaml", ["--trainer.max_epochs=2"])
