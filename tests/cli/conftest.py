"""`dfm` in this process, and one tiny run of the demo that the tests share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from in_process import Outcome, dfm

SMALL = Path(__file__).with_name("small.yaml")


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
