"""`dfm` in this process, and one tiny run of the demo that the tests share."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.cli import main

SMALL = Path(__file__).with_name("small.yaml")


@dataclass(frozen=True)
class Outcome:
    """What one call of `dfm` gave back."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, the `runs` folder above, and what it printed."""

    folder: Path
    runs: Path
    outcome: Outcome

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return (self.folder / "checkpoints" / "last.ckpt").resolve()

    @property
    def best(self) -> Path:
        """The best checkpoint."""
        return self.folder / "checkpoints" / "best.ckpt"


def dfm(*words: object) -> Outcome:
    """Run `dfm words` in this process; what a process of its own would leave behind is put back."""
    out, err = io.StringIO(), io.StringIO()
    with _restored(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return Outcome(code, out.getvalue(), err.getvalue())


def fit(runs: Path, *words: object) -> Run:
    """Fit the small demo into `runs` and return the run."""
    outcome = dfm("timeseries", "fit", "--config", "ttm/demo", "--config", SMALL, "--runs", runs, *words)
    assert outcome.code == 0, f"the small demo failed:\n{outcome.out}{outcome.err}"
    line = next(line for line in outcome.out.splitlines() if line.startswith("run folder: "))
    return Run(Path(line.removeprefix("run folder: ")), runs, outcome)


@pytest.fixture(scope="session", name="dfm")
def dfm_fixture() -> Callable[..., Outcome]:
    """The function `dfm(*words) -> Outcome`."""
    return dfm


@pytest.fixture(scope="session", name="fit")
def fit_fixture() -> Callable[..., Run]:
    """The function `fit(runs, *words) -> Run`."""
    return fit


@pytest.fixture(scope="session")
def small() -> Path:
    """The second config that makes `ttm/demo` small."""
    return SMALL


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One finished small demo; not to be written to."""
    return fit(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def copied(trained: Run, tmp_path: Path) -> Run:
    """A copy of the finished run that a test may go on with or damage."""
    runs = tmp_path / "runs"
    shutil.copytree(trained.runs, runs, symlinks=True)
    return Run(runs / trained.folder.relative_to(trained.runs), runs, trained.outcome)


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    import numpy as np
    import torch

    environment, folder = dict(os.environ), Path.cwd()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    products, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    streams = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.set_float32_matmul_precision(products)
        torch.set_num_threads(threads)
        random.setstate(streams[0])
        np.random.set_state(streams[1])
        torch.set_rng_state(streams[2])
        gc.unfreeze()
