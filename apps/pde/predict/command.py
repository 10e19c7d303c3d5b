"""`dfm pde predict`: files of initial states in, trajectories out; several checkpoints are an ensemble."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.cli.predict import check_options, predict_parser
from core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from apps.pde.predict.initial import InitialStates
    from apps.pde.predict.model import Surrogate

__all__ = ["COMMAND", "main", "predict_to"]

COMMAND = "dfm pde predict"

_DATA = "a file or folder of initial states"


def main(argv: Sequence[str]) -> int:
    """Continue the fields that `argv` names, write them and their pictures, and return the exit code.

    Raises:
        UserError: For an unknown option, a missing file, or fields that do not fit the network.
    """
    options = _parser().parse_args(list(argv))
    check_options(options, data=_DATA)
    from apps.pde.predict.initial import initial_states
    from apps.pde.predict.model import Surrogate
    from core.accelerators.choice import usable
    from core.inference.netcdf import check_suffix

    out = check_suffix(options.out, COMMAND)
    device = usable(options.device, order=("cuda", "cpu"))
    surrogate = Surrogate.from_checkpoint(options.ckpt_path, device=device, batch_size=options.batch_size)
    dataset, way = surrogate.dataset(options.dataset), surrogate.way(options.rollout)
    initial = initial_states(
        options.path,
        surrogate,
        dataset=dataset,
        start=options.start,
        stride=options.stride,
        trajectories=options.trajectories,
        resolution=options.resolution,
        layout=options.layout,
        split=options.split,
        axes=options.axes,
    )
    times = _times(options, surrogate, dataset, way)
    written = predict_to(
        out,
        surrogate,
        initial,
        times=times,
        dataset=dataset,
        rollout=way,
        figure=not options.no_figure,
        parameters=dict(_assigned(word, surrogate) for word in options.parameter),
        say=lambda line: print(line, file=sys.stderr),
    )
    if options.start is None and not surrogate.steady:
        last = initial.source.steps - 1
        print(f"started from snapshot {last}, the last; --start K takes another", file=sys.stderr)
    for path in written:
        print(path)
    return 0


def predict_to(
    out: str | Path,
    surrogate: Surrogate,
    initial: InitialStates,
    *,
    times: Sequence[float],
    dataset: str | None = None,
    rollout: str = "auto",
    figure: bool = True,
    parameters: Mapping[str, float] | None = None,
    say: Any = None,
) -> list[Path]:
    """Write the trajectories of `initial`, a few in memory at a time, and return the files.

    Args:
        out: A `.nc` file or a `.zarr` folder.
        surrogate: One network or an ensemble.
        initial: Where they start.
        times: Physical times after the start, rising; not used for steady problems.
        dataset: Whose scaling is used; default: the only one.
        rollout: `auto`, `direct` or `autoregressive`.
        figure: Whether a picture, and for several times a movie, of the first trajectory is written.
        parameters: Numbers of the equation for all trajectories; default: those of the file.
        say: Is given lines for the user, or None.

    Raises:
        UserError: If something does not fit or cannot be written.
    """
    import numpy as np

    from core.inference.netcdf import Solutions, check_suffix, written_to

    path, name = check_suffix(out, COMMAND), surrogate.dataset(dataset)
    facts, way = surrogate.constants(name), surrogate.way(rollout)
    surrogate.check_times(times, name, way)
    shown = [field for field in surrogate.outputs if field not in facts.masked] or surrogate.outputs
    places = [surrogate.outputs.index(field) for field in shown]
    rows = list(initial.trajectories)
    # a start that is not finite is refused before anything is computed
    for row in rows:
        initial.read([row])
    solutions = Solutions(
        fields=shown,
        samples=rows,
        times=None if surrogate.steady else initial.time + np.asarray(times, dtype=np.float64),
        coordinates=initial.coordinates,
        axis_names=facts.axes,
        units=facts.units,
        spread=surrogate.members > 1,
        command=COMMAND,
        attributes=_attributes(surrogate, initial, name, way),
    )
    kept: tuple[Any, Any] | None = None
    with written_to(path, solutions) as write:
        for first in range(0, len(rows), surrogate.batch_size):
            chosen = rows[first : first + surrogate.batch_size]
            mean, std = surrogate.predict(
                initial.read(chosen),
                times,
                dataset=name,
                rollout=way,
                parameters=initial.numbers(chosen, surrogate.parameters, parameters or {}),
            )
            mean, std = mean[:, :, places], None if std is None else std[:, :, places]
            for number, row in enumerate(chosen):
                if not np.isfinite(mean[number]).all() and say is not None:
                    say(f"trajectory {row} holds values that are not finite: the rollout diverged")
                write(first + number, mean[number], None if std is None else std[number])
            if kept is None:
                kept = mean[0], None if std is None else std[0]
    initial.source.close()
    trained = list(surrogate.facts.space)
    if say is not None and list(initial.space) != trained and not facts.is_series:
        grids = [" x ".join(map(str, space)) for space in (trained, initial.space)]
        say(f"the network was trained on a grid of {grids[0]}, the initial states have {grids[1]}")
    if say is not None and not facts.is_series:
        for axis, at in zip("xyz", initial.coordinates, strict=False):
            lengths = [_length(*facts.coordinates[axis]), _length(at[0], at[-1], len(at))]
            if abs(lengths[1] - lengths[0]) > 0.1 * lengths[0]:
                say(f"{axis} spans {lengths[1]:.4g}, and {lengths[0]:.4g} in training; networks see points")
    made = [path]
    if figure and kept is not None and np.isfinite(kept[0]).all():
        from apps.pde.predict.pictures import pictures

        truth = initial.later(rows[0], [0.0] if surrogate.steady else times, shown)
        interest = [field for field in facts.interest if field in shown]
        made += pictures(path, solutions, *kept, truth=truth, shown=interest, title=f"Trajectory {rows[0]}")
    return made


def _length(first: float, last: float, points: int) -> float:
    return (last - first) * points / max(points - 1, 1)


def _times(options: argparse.Namespace, surrogate: Surrogate, dataset: str, way: str) -> list[float]:
    if surrogate.steady:
        if options.steps is not None or options.times is not None:
            raise UserError(
                "the network solves a steady problem, which has no times; leave --steps/--times out"
            )
        return [0.0]
    if options.times is not None:
        times = [float(time) for time in options.times]
    else:
        if options.steps is not None and options.steps < 1:
            raise UserError(f"--steps is {options.steps}; it must be at least 1")
        many = options.steps or surrogate.steps(dataset, way)
        times = [surrogate.step(dataset) * (number + 1) for number in range(many)]
    surrogate.check_times(times, dataset, way)
    return times


def _attributes(surrogate: Surrogate, initial: InitialStates, dataset: str, way: str) -> dict[str, Any]:
    """Return what the file says of itself; lists are joined, netCDF keeps no nested ones."""
    own = [initial.source.licence] if initial.source.licence else []
    return {
        "checkpoint": ", ".join(surrogate.names),
        "dataset": dataset,
        "rollout": "steady" if surrogate.steady else way,
        "initial_states": initial.source.path,
        "start": initial.time,
        "licences": ", ".join(dict.fromkeys([*surrogate.licences, *own])),
        "sources": ", ".join(surrogate.sources),
        "periodic": int(initial.source.periodic),
    }


def _parser() -> argparse.ArgumentParser:
    parser = predict_parser(
        "pde", __doc__, data=_DATA, out="a .nc file or a .zarr folder", default_out="prediction.nc",
        batch_size=16, several=True,
    )  # fmt: skip
    add = parser.add_argument
    add("--data.layout", dest="layout", help="its layout; recognised by default")
    add("--data.axes", dest="axes", help='names of the axes of plain arrays in order, as "run time y x"')
    add("--data.split", dest="split", help="train, valid or test, where a layout has them")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--steps", type=int, help="steps of the training data; default: as far as it goes")
    when.add_argument("--times", type=float, nargs="+", help="physical times after the initial state")
    add("--rollout", default="auto", help="auto, direct or autoregressive")
    add("--dataset", help="which of the training sets gives the scaling")
    add("--start", type=int, help="snapshot of the initial state; default: the last")
    add("--stride", type=int, help="snapshots between the frames of a history")
    add("--trajectories", type=int, nargs="+", help="rows of the file; default: all")
    add("--parameter", action="append", default=[], help="NAME=NUMBER of the equation; default: the file's")
    add("--resolution", type=int, help="points along each axis: keeps every k-th")
    return parser


def _assigned(word: str, surrogate: Surrogate) -> tuple[str, float]:
    name, _, text = word.partition("=")
    try:
        number = float(text)
    except ValueError as error:
        raise UserError(f"--parameter {word} is not NAME=NUMBER, such as viscosity=0.01") from error
    if name not in surrogate.parameters:
        known = ", ".join(surrogate.parameters) or "none"
        near = did_you_mean(name, surrogate.parameters)
        raise UserError(f"--parameter {name} is no number that the network takes{near} (it takes {known})")
    return name, number
