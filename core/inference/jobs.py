"""Jobs over many inputs: where each result goes, and what becomes of an input that fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from core.data.checks import one_of
from core.errors import UserError

__all__ = ["ON_ERROR", "Job", "JobReport", "each_input", "outputs_for"]

ON_ERROR = ("skip", "stop")
"""What can be done about an input that fails: leave it out and go on, or end."""


class Result(Protocol):
    """What became of one input."""

    @property
    def path(self) -> Path:
        """The file that was written."""
        ...

    @property
    def beside(self) -> tuple[Path, ...]:
        """Files that go with it."""
        ...

    @property
    def existed(self) -> bool:
        """Whether it was there already."""
        ...


@dataclass(frozen=True)
class JobReport:
    """What became of many inputs: results, and each input without one with the sentence that says why.

    `what` is what inputs are called, and what is done to them.
    """

    done: tuple[Result, ...]
    failed: tuple[tuple[Path, str], ...]
    what: tuple[str, str] = ("input", "done")

    def summary(self) -> str:
        """Return how many are done, and a line for each that is not."""
        had, (noun, verb) = sum(one.existed for one in self.done), self.what
        head = f"{len(self.done)} of {len(self.done) + len(self.failed)} {noun}s are {verb}"
        lines = [head + (f", {had} of them before" if had else "")]
        return "\n".join(lines + [f"failed: {path}: {why}" for path, why in self.failed])


def outputs_for(inputs: Iterable[Path], folder: Path, *, suffix: str = ".tif") -> dict[Path, Path]:
    """Return where each input's result goes, `<name><suffix>` in the folder, and the input.

    Raises:
        UserError: If two inputs would have one result.
    """
    outs: dict[Path, Path] = {}
    for source in inputs:
        out = Path(folder) / f"{Path(source).stem}{suffix}"
        if out in outs:
            raise UserError(
                f"{outs[out]} and {source} would both be mapped to {out}; rename one, or map them apart"
            )
        outs[out] = Path(source)
    return outs


def each_input(
    outs: Mapping[Path, Path],
    work: Callable[[Path, Path], Result],
    *,
    on_error: str = "skip",
    what: tuple[str, str] = ("input", "done"),
) -> JobReport:
    """Do the same with many inputs: `work` is given each and where its result goes.

    With `on_error` `skip` stderr says which input fails and work goes on; `stop` raises. `what` is what
    inputs are called, and what is done to them.

    Raises:
        UserError: With `stop`, what the input that fails raises.
    """
    one_of(ON_ERROR, on_error=on_error)
    done: list[Result] = []
    failed: list[tuple[Path, str]] = []
    for number, (out, source) in enumerate(outs.items(), start=1):
        try:
            done.append(work(source, out))
        except BrokenPipeError:  # of a reader of stdout that left
            raise
        except Exception as error:  # whatever is wrong with one file must not end the others
            if on_error == "stop":
                if not isinstance(error, UserError):
                    raise
                raise UserError(f"{error} ({what[0]} {number} of {len(outs)}, {source})") from error
            why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            failed.append((source, why))
            print(f"skipped {source}: {why}", file=sys.stderr, flush=True)
    return JobReport(tuple(done), tuple(failed), what)


@dataclass(frozen=True)
class Job:
    """Which inputs are worked on and where the results go.

    Args:
        inputs: The files of each: one, or several that belong together.
        target: `--out`.
        one: Whether the user named a single input: its result may be named too, its failure is an error.
        on_error: Of `ON_ERROR`.
        what: What inputs are called, and what is done to them.
    """

    inputs: Sequence[tuple[Path, ...]]
    target: str
    one: bool
    on_error: str = "skip"
    what: tuple[str, str] = ("input", "done")

    @property
    def files(self) -> list[Path]:
        """All files."""
        return [file for files in self.inputs for file in files]

    @property
    def firsts(self) -> list[Path]:
        """The first file of each input, after which the results are named."""
        return [files[0] for files in self.inputs]

    @property
    def out(self) -> Path:
        """Where results go."""
        return Path(self.target).expanduser()

    def outs(self, suffixes: Sequence[str]) -> dict[Path, Path]:
        """Return where each result goes, and its input; files in a folder have the first of the `suffixes`.

        Raises:
            UserError: If a file is given for several inputs, has another suffix, or is an input itself.
        """
        path, firsts = self.out, self.firsts
        single = path.suffix.lower() in suffixes and not path.is_dir()
        if single and not self.one:
            raise UserError(
                f"--out {path} is a file and there are {len(firsts)} {self.what[0]}s; give a folder"
            )
        if self.one and not single and path.suffix and not path.is_dir():
            raise UserError(
                f"--out {path} ends in {path.suffix}; it must be a folder or end in {suffixes[0]}"
            )
        if not single and path.is_file():
            raise UserError(f"--out {path} is a file; give a folder")
        outs = {path: firsts[0]} if single else outputs_for(firsts, path, suffix=suffixes[0])
        self.check(outs)
        return outs

    def check(self, outs: Iterable[Path]) -> None:
        """Refuse results that would stand in the place of an input.

        Raises:
            UserError: With the name.
        """
        files = {os.path.realpath(file) for file in self.files}
        for out in outs:
            if os.path.realpath(out) in files:
                raise UserError(f"--out {out} is a {self.what[0]} itself; choose another name or folder")

    def run(self, outs: Mapping[Path, Path], work: Callable[[Sequence[Path], Path], Result]) -> int:
        """Do the work for each input, print what was written, and return the exit code.

        Raises:
            UserError: If a single input fails, or one does with `stop`.
        """
        printed: set[Path] = set()
        files = dict(zip(self.firsts, self.inputs, strict=True))

        def told(source: Path, out: Path) -> Result:
            result = work(files[source], out)
            for path in (result.path, *result.beside):
                if path not in printed:
                    print(path, flush=True)
                printed.add(path)
            return result

        if self.one:
            ((out, source),) = outs.items()
            told(source, out)
            return 0
        report = each_input(outs, told, on_error=self.on_error, what=self.what)
        print(report.summary(), file=sys.stderr)
        return 2 if report.failed else 0

    def run_together(self, shared: Path, work: Callable[[Sequence[Path], Path], Result]) -> int:
        """Do the work for each input into one file, as `run` does."""
        return self.run(outputs_for(self.firsts, shared.parent), work)
