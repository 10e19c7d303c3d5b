"""`dfm DOMAIN efficiency`: error against the amount of training data, for several recipes, as table and plot.

Every cell is an ordinary `fit` with its test, in a run folder of its own; a broken-off comparison goes on
where it stood when it is started again with the same `--out` and the same options behind `--`.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.cli.parser import Parser
from core.errors import UserError, did_you_mean
from core.tables import text_table

__all__ = ["Study", "main"]

WORDS = "options.json"
Curves = dict[str, tuple[list[int], list[float]]]


@dataclass(frozen=True)
class Study:
    """The domain's words.

    Attributes:
        domain: Its name.
        amount: Option of its data that says how many samples are trained on.
        metrics: Column of a run's results to its unit, all of them errors; the first is drawn by default.
    """

    domain: str
    amount: str
    metrics: Mapping[str, str]


def main(argv: Sequence[str], study: Study) -> int:
    """Fit every recipe on every amount of data, write `efficiency.csv` and the plot; return the exit
    code.

    Raises:
        UserError: For an unknown recipe or option, a recipe that is not tested after its fit, or cells in
            `--out` that were run with other options.
    """
    words, rest = _split(argv)
    options = _parser(study).parse_args(words)
    recipes, amounts = _recipes(study.domain, options.config), getattr(options, study.amount)
    if min(amounts) < 1:
        raise UserError(f"--{study.amount} has {min(amounts)}; every number must be at least 1")
    if options.baseline is not None and options.baseline not in recipes:
        near = did_you_mean(options.baseline, list(recipes))
        raise UserError(f"--baseline {options.baseline} is none of {', '.join(recipes)}{near}")
    out = Path(options.out or Path("runs") / study.domain / "efficiency" / time.strftime("%Y%m%d-%H%M%S"))
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    cells = {
        (name, number, seed): out / f"{name.replace('/', '-')}-{number}" / f"seed{seed}"
        for name, number, seed in _cells(recipes, amounts, options.seeds)
    }
    for (name, _, _), folder in cells.items():
        _check_words(folder, name, rest)
    for (name, number, seed), folder in cells.items():
        if not (folder / "results.csv").is_file():
            _note_words(folder, name, rest)
            settings = ["--config", str(recipes[name]), "--seed_everything", str(seed)]
            settings += ["--data.seed", str(seed), f"--data.{study.amount}", str(number)]
            code = _fit(study.domain, [*settings, *rest], folder)
            if code:
                return code
        rows += _read(folder, study, model=name, number=number, seed=seed)
        _write(out, rows, study, metric=options.metric, baseline=options.baseline)
    print(_text(rows, study, options.metric), flush=True)
    if options.baseline is not None:
        print(_gains_text(_curves(rows, study, options.metric), study.amount, options.baseline), flush=True)
    for path in (out / "efficiency.csv", out / "gains.csv", out / "efficiency.png"):
        if path.is_file():
            print(path, flush=True)
    return 0


def _parser(study: Study) -> argparse.ArgumentParser:
    parser = Parser(
        prog=f"dfm {study.domain} efficiency",
        description=__doc__,
        epilog="Options of every fit stand behind `--`: -- --trainer.max_epochs 20",
    )
    parser.add_argument("--config", action="append", required=True, help="a recipe; give it once a model")
    sizes, metrics = [4, 16, 64], list(study.metrics)
    parser.add_argument(f"--{study.amount}", type=int, nargs="+", default=sizes, help="training set sizes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one fit for each")
    parser.add_argument("--metric", choices=metrics, default=metrics[0], help="what is drawn")
    parser.add_argument("--baseline", help="recipe that EG and AG compare the others with")
    parser.add_argument("--out", help="folder; one that is there already is gone on with")
    return parser


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    words = list(argv)
    end = words.index("--") if "--" in words else len(words)
    return words[:end], words[end + 1 :]


def _recipes(domain: str, names: Sequence[str]) -> dict[str, Path]:
    from core.cli.arguments import read_yaml
    from core.cli.recipes import find_config

    paths = {}
    for name in names:
        path = find_config(domain, name)
        if not (read_yaml(path).get("about") or {}).get("test_after_fit"):
            raise UserError(f"{name} is not tested after its fit; set about.test_after_fit to true in {path}")
        paths[name] = path
    return paths


def _cells(
    recipes: dict[str, Path], sizes: Sequence[int], seeds: Sequence[int]
) -> Iterator[tuple[str, int, int]]:
    for number in sorted(set(sizes)):
        for name in recipes:
            for seed in seeds:
                yield name, number, seed


def _words(rest: Sequence[str]) -> list[str]:
    """Return options in one spelling, `--name=value`, so that the two that mean the same are equal."""
    options: list[str] = []
    for word in rest:
        if options and not word.startswith("-") and "=" not in options[-1]:
            options[-1] += f"={word}"
        else:
            options.append(word)
    return options


def _check_words(folder: Path, name: str, rest: Sequence[str]) -> None:
    """Refuse a cell that another recipe or other options filled.

    Raises:
        UserError: Then.
    """
    if not folder.is_dir() or all(path.suffix == ".tmp" for path in folder.iterdir()):
        return  # not begun, or stopped before it was noted
    try:
        note = json.loads((folder / WORDS).read_text(encoding="utf-8"))
        recipe, before = note["recipe"], list(note["options"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} does not say with which options it was run; give another --out") from error
    if recipe != name:
        raise UserError(f"{folder} holds a run of {recipe} and not of {name}; give another --out")
    if before != _words(rest):
        old, new = (" ".join(words) or "nothing" for words in (before, _words(rest)))
        raise UserError(
            f"{folder} was run with {old} behind `--`, and now there is {new}; give the same again, or"
            " another --out"
        )


def _note_words(folder: Path, name: str, rest: Sequence[str]) -> None:
    from core.files import replacing

    with replacing(folder / WORDS) as temporary:
        temporary.write_text(json.dumps({"recipe": name, "options": _words(rest)}), encoding="utf-8")


def _fit(domain: str, settings: Sequence[str], folder: Path) -> int:
    """Run one cell in `folder`, going on where it stood."""
    from core.cli.arguments import prepare
    from core.cli.environment import set_environment
    from core.cli.run_folders import INHERITED

    again = ["--ckpt_path", "last"] if any((folder / "checkpoints").glob("*.ckpt")) else []
    request = prepare(domain, "fit", [*settings, *again])
    set_environment(request)
    from core.cli.run import run

    folder.mkdir(parents=True, exist_ok=True)
    os.environ[INHERITED] = str(folder)
    try:
        return run(request)
    finally:
        os.environ.pop(INHERITED, None)


def _read(folder: Path, study: Study, *, model: str, number: int, seed: int) -> list[dict[str, Any]]:
    """Return the rows of the network's own results, data set by data set."""
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    network = rows[0]["model"]  # the network comes before what needs no learning
    return [
        {"dataset": row["dataset"], "model": model, study.amount: number, "seed": seed}
        | {name: float(row[name]) for name in study.metrics}
        for row in rows
        if row["model"] == network
    ]


def _write(out: Path, rows: list[dict[str, Any]], study: Study, *, metric: str, baseline: str | None) -> None:
    from core.figures.curves import efficiency_figure
    from core.figures.style import style
    from core.files import replacing
    from core.tables import write_table

    write_table(out / "efficiency.csv", rows)
    curves = _curves(rows, study, metric)
    gains = [] if baseline is None else _gains(curves, study.amount, baseline)
    if gains:
        write_table(out / "gains.csv", gains)
    else:
        (out / "gains.csv").unlink(missing_ok=True)  # of a start with another baseline
    figure = efficiency_figure(curves, metric=metric, unit=study.metrics[metric], amount=study.amount)
    with style(), replacing(out / "efficiency.png") as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _curves(rows: Sequence[dict[str, Any]], study: Study, metric: str) -> Curves:
    """Return, for every model, training set sizes and the error, averaged over data sets and seeds."""
    by_model: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        by_model.setdefault(row["model"], {}).setdefault(row[study.amount], []).append(row[metric])
    return {
        model: (sorted(sizes), [sum(sizes[n]) / len(sizes[n]) for n in sorted(sizes)])
        for model, sizes in by_model.items()
    }


def _usable(curves: Curves) -> tuple[Curves, list[str]]:
    """Return the curves without errors that no ratio can be made of, and what was left out."""
    kept: Curves = {}
    dropped = []
    for model, (sizes, errors) in curves.items():
        pairs = [(n, e) for n, e in zip(sizes, errors, strict=True) if math.isfinite(e) and e > 0]
        kept[model] = ([n for n, _ in pairs], [e for _, e in pairs])
        dropped += [
            f"{model} at {n} ({e:g})" for n, e in zip(sizes, errors, strict=True) if n not in kept[model][0]
        ]
    return kept, dropped


def _gains(curves: Curves, amount: str, baseline: str) -> list[dict[str, Any]]:
    """Return EG (samples of the baseline per sample needed for the same error) and AG (its error over
    ours); `bound` says whether EG is `exact`, or `at_least` or `at_most` the number, where our curve ends.
    """
    from core.metrics.gains import accuracy_gain, efficiency_gain

    curves, _ = _usable(curves)
    rows = []
    for model, (own, errors) in curves.items():
        for number, error in zip(*curves.get(baseline, ([], [])), strict=True):
            if model == baseline or number not in own:
                continue
            gain = efficiency_gain(own, errors, number, error)
            rows.append(
                {"model": model, amount: number}
                | {"efficiency_gain": gain.value, "bound": gain.bound}
                | {"accuracy_gain": accuracy_gain(error, errors[own.index(number)])}
            )
    return rows


def _gains_text(curves: Curves, amount: str, baseline: str) -> str:
    """Return the gains for the terminal, a bound with its sign, and in one line what has none."""
    from core.metrics.gains import Gain

    rows, (_, dropped) = _gains(curves, amount, baseline), _usable(curves)
    lines = [f"left out of the gains, no error above 0: {', '.join(dropped)}"] if dropped else []
    if rows:
        gains = [str(Gain(row["efficiency_gain"], row["bound"])) for row in rows]
        cells = [
            (row["model"], row[amount], gain, row["accuracy_gain"])
            for row, gain in zip(rows, gains, strict=True)
        ]
        lines += [f"gains over {baseline}:", text_table(cells, head=("", amount, "EG", "AG"), number=".3g")]
    return "\n".join(lines) or f"no gains over {baseline}: no other model has its numbers of {amount}"


def _text(rows: Sequence[dict[str, Any]], study: Study, metric: str) -> str:
    curves = _curves(rows, study, metric)
    sizes = sorted({row[study.amount] for row in rows})
    unit = f" [{study.metrics[metric]}]" if study.metrics[metric] else ""
    errors = {model: dict(zip(*curve, strict=True)) for model, curve in curves.items()}
    rows_of_models = [[model, *(values.get(size, "") for size in sizes)] for model, values in errors.items()]
    table = text_table(rows_of_models, head=["", *map(str, sizes)])
    return f"{metric}{unit} against the number of training {study.amount}:\n{table}"
