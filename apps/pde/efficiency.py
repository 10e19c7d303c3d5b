"""`dfm pde efficiency`: error against the number of training trajectories, for several recipes, as table and
plot.

Every cell is an ordinary `fit` with its test, in a run folder of its own; a broken-off comparison goes on
where it stood when it is started again with the same `--out`.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from core.cli.words import Parser
from core.errors import UserError, did_you_mean

__all__ = ["main"]

METRICS = ("relative_l1", "relative_l1_mean", "relative_l2", "vrmse")


def main(argv: Sequence[str]) -> int:
    """Fit every recipe on every number of trajectories, write `efficiency.csv` and the plot; return the exit
    code.

    Raises:
        UserError: For an unknown recipe or option, or one that is not tested after its fit.
    """
    words, rest = _split(argv)
    options = _parser().parse_args(words)
    recipes = _recipes(options.config)
    if min(options.trajectories) < 1:
        raise UserError(f"--trajectories has {min(options.trajectories)}; every number must be at least 1")
    if options.baseline is not None and options.baseline not in recipes:
        near = did_you_mean(options.baseline, list(recipes))
        raise UserError(f"--baseline {options.baseline} is none of {', '.join(recipes)}{near}")
    out = Path(options.out or Path("runs") / "pde" / "efficiency" / time.strftime("%Y%m%d-%H%M%S"))
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name, number, seed in _cells(recipes, options.trajectories, options.seeds):
        folder = out / f"{name.replace('/', '-')}-{number}" / f"seed{seed}"
        if not (folder / "results.csv").is_file():
            code = _fit(recipes[name], number, seed, folder, rest)
            if code:
                return code
        rows += _read(folder, model=name, trajectories=number, seed=seed)
        _write(out, rows, metric=options.metric, baseline=options.baseline)
    print(_text(rows, options.metric), flush=True)
    for path in (out / "efficiency.csv", out / "efficiency.png"):
        print(path, flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="dfm pde efficiency",
        description=__doc__,
        epilog="Options of every fit stand behind `--`: -- --trainer.max_epochs 20",
    )
    parser.add_argument("--config", action="append", required=True, help="a recipe; give it once a model")
    parser.add_argument("--trajectories", type=int, nargs="+", default=[4, 16, 64], help="training set sizes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one fit for each")
    parser.add_argument("--metric", choices=METRICS, default="relative_l1", help="what is drawn")
    parser.add_argument("--baseline", help="recipe that EG and AG compare the others with")
    parser.add_argument("--out", help="folder; one that is there already is gone on with")
    return parser


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    words = list(argv)
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


def _recipes(names: Sequence[str]) -> dict[str, Path]:
    from core.cli.arguments import read_yaml
    from core.cli.recipes import find_config

    found = {}
    for name in names:
        path = find_config("pde", name)
        if not (read_yaml(path).get("about") or {}).get("test_after_fit"):
            raise UserError(f"{name} is not tested after its fit; set about.test_after_fit to true in {path}")
        found[name] = path
    return found


def _cells(
    recipes: dict[str, Path], sizes: Sequence[int], seeds: Sequence[int]
) -> Iterator[tuple[str, int, int]]:
    for number in sorted(set(sizes)):
        for name in recipes:
            for seed in seeds:
                yield name, number, seed


def _fit(recipe: Path, number: int, seed: int, folder: Path, rest: Sequence[str]) -> int:
    """Run one cell in `folder`, going on where it stood."""
    from core.cli.arguments import prepare
    from core.cli.environment import set_environment
    from core.cli.runs import INHERITED

    words = ["--config", str(recipe), "--seed_everything", str(seed), "--data.seed", str(seed)]
    words += ["--data.trajectories", str(number), *rest]
    if any((folder / "checkpoints").glob("*.ckpt")):
        words += ["--ckpt_path", "last"]
    request = prepare("pde", "fit", words)
    set_environment(request)
    from core.cli.run import run

    folder.mkdir(parents=True, exist_ok=True)
    os.environ[INHERITED] = str(folder)
    try:
        return run(request)
    finally:
        os.environ.pop(INHERITED, None)


def _read(folder: Path, *, model: str, trajectories: int, seed: int) -> list[dict[str, Any]]:
    """Return the rows of the network's own results, data set by data set."""
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    own = rows[0]["model"]  # the network comes before what needs no learning
    return [
        {"dataset": row["dataset"], "model": model, "trajectories": trajectories, "seed": seed}
        | {name: float(row[name]) for name in METRICS}
        for row in rows
        if row["model"] == own
    ]


def _write(out: Path, rows: list[dict[str, Any]], *, metric: str, baseline: str | None) -> None:
    from apps.pde.figures import efficiency_figure
    from core.files import replacing
    from core.tracking.figures import style
    from core.tracking.tables import write_table

    write_table(out / "efficiency.csv", rows)
    curves = _curves(rows, metric)
    if baseline is not None and baseline in curves:
        write_table(out / "gains.csv", _gains(curves, baseline))
    figure = efficiency_figure(curves, metric=metric)
    with style(), replacing(out / "efficiency.png") as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _curves(rows: Sequence[dict[str, Any]], metric: str) -> dict[str, tuple[list[int], list[float]]]:
    """Return, for every model, training set sizes and the error, averaged over data sets and seeds."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        found.setdefault(row["model"], {}).setdefault(row["trajectories"], []).append(row[metric])
    return {
        model: (sorted(sizes), [sum(sizes[n]) / len(sizes[n]) for n in sorted(sizes)])
        for model, sizes in found.items()
    }


def _gains(curves: dict[str, tuple[list[int], list[float]]], baseline: str) -> list[dict[str, Any]]:
    """Return EG (samples of the baseline per sample needed for the same error) and AG (its error over
    ours).
    """
    from apps.pde.metrics import accuracy_gain, efficiency_gain

    sizes, errors = curves[baseline]
    return [
        {"model": model, "trajectories": number}
        | {"efficiency_gain": float(efficiency_gain(*curves[model], number, error))}
        | {"accuracy_gain": float(accuracy_gain(error, curves[model][1][curves[model][0].index(number)]))}
        for model in curves
        if model != baseline
        for number, error in zip(sizes, errors, strict=True)
        if number in curves[model][0]
    ]


def _text(rows: Sequence[dict[str, Any]], metric: str) -> str:
    curves = _curves(rows, metric)
    sizes = sorted({row["trajectories"] for row in rows})
    wide = max(len(model) for model in curves) + 2
    lines = [f"{metric} against the number of training trajectories:"]
    lines.append(" " * wide + "".join(f"{size:>10}" for size in sizes))
    for model, (known, errors) in curves.items():
        cells = {size: f"{error:>10.4g}" for size, error in zip(known, errors, strict=True)}
        lines.append(f"{model:<{wide}}" + "".join(cells.get(size, " " * 10) for size in sizes))
    return "\n".join(lines)
