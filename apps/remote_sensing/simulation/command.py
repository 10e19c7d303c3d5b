"""`dfm data generate remote_sensing/landscapes`: simulated scenes as a folder of GeoTIFFs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from core.cli.parser import Parser
from core.errors import UserError, did_you_mean

__all__ = ["main"]

_KNOWN = {"landscapes": "six bands at 30 m, several dates; labels: land_cover, water, changed, biomass"}


def main(argv: Sequence[str]) -> int:
    """Run the command with the words after `dfm data generate`, and return the exit code.

    Raises:
        UserError: For every mistake of the user.
    """
    options = _parser().parse_args(list(argv))
    if options.list:
        for name, about in _KNOWN.items():
            print(f"remote_sensing/{name}  {about}")
        return 0
    _check(options.what)

    from apps.remote_sensing.simulation.store import Settings, ensure

    settings = Settings(options.scenes, options.size, options.frames, options.seed, not options.clear)
    print(ensure(settings, options.out, progress=not options.quiet))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="dfm data generate remote_sensing/landscapes",
        description="Make scenes with images, labels, clouds and lists of splits as GeoTIFFs. The folder "
        "gets its name when all is written.",
    )
    add = parser.add_argument
    add("what", nargs="?", metavar="remote_sensing/landscapes", help="what to make; --list shows it")
    add("--list", action="store_true", help="show what can be made and leave")
    add("--scenes", type=int, default=48, metavar="N", help="how many scenes (default 48)")
    add("--size", type=int, default=128, metavar="S", help="pixels along an edge (default 128)")
    add("--frames", type=int, default=3, metavar="T", help="dates of each scene (default 3)")
    add("--seed", type=int, default=0, metavar="S", help="seed of the scenes (default 0)")
    add("--clear", action="store_true", help="leave clouds, shadows and edges of the swath out of the images")
    add("--out", type=Path, metavar="FOLDER", help="where to (default: the cache)")
    add("--quiet", action="store_true", help="show no progress")
    return parser


def _check(word: str | None) -> None:
    domain, mark, name = (word or "").partition("/")
    if mark and domain.replace("-", "_") != "remote_sensing":
        raise UserError(f"'{word}' is not of the domain remote_sensing; write remote_sensing/{name}")
    name = name if mark else domain
    if name not in _KNOWN:
        known = ", ".join(_KNOWN)
        raise UserError(
            f"say what to generate, as in remote_sensing/landscapes; '{name}' is not of {known}"
            f"{did_you_mean(name, _KNOWN)}"
        )
