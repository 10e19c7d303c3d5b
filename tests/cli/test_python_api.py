"""`from domainfm import …`: the same runs and predictors as the command's, from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jsonargparse
import pytest
from in_process import restored
from jsonargparse._common import parsing_settings

import domainfm
from core.errors import UserError

ROOT = Path(__file__).parents[2]


def in_folder(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder that stands first on its path, as in a notebook."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def clashing(tmp_path: Path) -> Path:
    """A user's folder with packages of our names."""
    for name in ("core", "apps"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n")
    return tmp_path


def test_a_recipe_is_fitted_and_its_checkpoint_forecasts(small, tmp_path) -> None:
    pd = pytest.importorskip("pandas")
    options = {"runs": str(tmp_path / "runs"), "about.test_after_fit": False}

    jsonargparse.set_parsing_settings(import_path_allowlist=["mine"])  # a parser of the user's own
    before = dict(parsing_settings)
    with restored():
        run = domainfm.fit("timeseries", "ttm/demo", options, hardware=[str(small)])
    frame = pd.DataFrame({"date": pd.date_range("2001", periods=60, freq="MS"), "value": range(60)})
    forecast = domainfm.load(run.best, device="cpu").forecast(frame, horizon=3)

    assert parsing_settings == before
    assert run.folder.parent == tmp_path / "runs" / "timeseries" / "ttm-demo"
    assert (run.folder / "metrics.csv").is_file() and len(forecast) == 3
    assert isinstance(domainfm.load(run.best, device="cpu"), domainfm.Forecaster)


def test_mistakes_are_one_sentence(tmp_path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        domainfm.load(tmp_path / "gone.ckpt")
    with pytest.raises(UserError, match="which domain"):
        domainfm.load("owner/name")
    with pytest.raises(UserError, match="did you mean 'timeseries'"):
        domainfm.load("owner/name", domain="timeserie")


def test_folders_named_like_our_packages_do_no_harm(clashing) -> None:
    done = in_folder("import domainfm, core; print(hasattr(core, 'MINE'))", clashing)
    command = subprocess.run(
        [sys.executable, "-m", "domainfm", "recipes", "timeseries"],
        cwd=clashing,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    assert done.stdout.split() == ["False"], done.stderr
    assert command.returncode == 0 and "ttm/demo" in command.stdout


def test_a_package_of_our_name_that_was_imported_before_is_told(clashing) -> None:
    done = in_folder("import core\nimport domainfm", clashing)

    assert "another package named 'core' was imported before" in done.stderr.splitlines()[-1]
