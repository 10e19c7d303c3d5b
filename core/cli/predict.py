"""The options that `dfm DOMAIN predict` has in every domain, and their checks, which need no torch."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from core.cli.arguments import SPECIAL_CHECKPOINTS, Request
from core.cli.parser import Parser
from core.errors import UserError

__all__ = ["check_options", "predict_parser", "settle_checkpoint"]


def predict_parser(
    domain: str,
    description: str | None,
    *,
    data: str,
    out: str,
    default_out: str | None,
    batch_size: int | None = None,
    several: bool = False,
    paths: bool = False,
    figure: bool = True,
    verb: str = "predict",
    data_required: bool = True,
    checkpoint_required: bool = True,
) -> Parser:
    """Return a parser with the common options of the verb.

    Args:
        domain: As it is typed.
        description: What the verb does: the module's docstring.
        data: What `--data.path` may be.
        out: What `--out` may be.
        default_out: Where results go without `--out`; None makes it required.
        batch_size: Default of `--batch_size`; None leaves that option out.
        several: Whether `--ckpt_path` may be given several times, as members of an ensemble.
        paths: Whether `--data.path` takes several.
        figure: Whether there is `--no_figure`.
        verb: The verb.
        data_required: Whether `--data.path` must be given.
        checkpoint_required: Whether `--ckpt_path` must be given.
    """
    parser = Parser(prog=f"dfm {domain} {verb}", description=description)
    parser.set_defaults(domain=domain.replace("-", "_"))
    add = parser.add_argument
    which = "`best` or `last` of the newest run, a run folder, a checkpoint, a weights card or hub id"
    if several:
        add("--ckpt_path", action="append", required=True, help=f"{which}; several: an ensemble")
    else:
        add("--ckpt_path", required=checkpoint_required, help=which)
    add("--data.path", dest="path", nargs="+" if paths else None, required=data_required, help=data)
    add("--out", default=default_out, required=default_out is None, help=out)
    if figure:
        add("--no_figure", action="store_true", help="write no picture beside the result")
    add("--device", default="auto", help="auto, cpu, cuda, mps or neuron")
    if batch_size is not None:
        add("--batch_size", type=int, default=batch_size, help="samples at once; changes nothing else")
    return parser


def check_options(options: argparse.Namespace, *, data: str) -> None:
    """Refuse files that do not exist and a result that would replace its input; of a run take the best.

    Args:
        options: Of a parser of `predict_parser`.
        data: What `--data.path` should be, for the sentence.

    Raises:
        UserError: Naming the option.
    """
    settle_checkpoint(options)
    if getattr(options, "batch_size", 1) < 1:
        raise UserError(f"--batch_size is {options.batch_size}; it must be at least 1")
    if options.path is None:
        return
    source = Path(options.path).expanduser()
    if not source.exists():
        raise UserError(f"--data.path {options.path} does not exist; give {data}")
    if os.path.realpath(Path(options.out).expanduser()) == os.path.realpath(source):
        raise UserError(f"--out {options.out} is the file of the data; choose another name")


def settle_checkpoint(options: argparse.Namespace) -> None:
    """Put the file in the place of `best`, `last` or a run folder in `--ckpt_path`.

    Raises:
        UserError: If there is none.
    """
    several = isinstance(options.ckpt_path, list)
    checkpoints = options.ckpt_path if several else [options.ckpt_path]
    for path in checkpoints:
        if path.endswith(".ckpt") and not Path(path).exists():
            raise UserError(f"checkpoint {path} does not exist; `dfm checkpoint list` shows what there is")
    checkpoints = [_best_of_run(path, options.domain) for path in checkpoints]
    options.ckpt_path = checkpoints if several else checkpoints[0]


def _best_of_run(path: str, domain: str) -> str:
    if path not in SPECIAL_CHECKPOINTS and not (Path(path) / "checkpoints").is_dir():
        return path
    from core.cli.run_folders import checkpoint_in, locate

    if path in SPECIAL_CHECKPOINTS:
        return str(locate(Request(domain, "predict", ckpt_path=path))[0])
    return str(checkpoint_in(path))
