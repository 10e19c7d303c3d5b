"""A built wheel works away from the clone; making the environment explains in one sentence what stops it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

TOOLS = ("sh", "dirname", "grep", "cksum", "cat", "tr", "mktemp", "rm", "mkdir", "date", "tail")


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=200, env={**os.environ, **environment}
    )


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the checkout, without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    done = run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(folder),
            str(repository),
        ],
        folder,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel was installed into; nothing in it points to the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(folder),
    ]
    done = run([*command, str(wheel)], folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_wheel_holds_every_package_recipe_and_card_and_no_test(wheel: Path, repository: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = ("core", "apps", "configs", "data_cards")
    here = {
        path.relative_to(repository).as_posix()
        for top in tops
        for path in (repository / top).rglob("*")
        if path.suffix in (".py", ".yaml", ".md", ".ipynb")
    }
    assert here - names == set(), "these files are missing from the wheel"
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} <= {*tops, "domainfm.py"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_command_of_the_wheel_works_from_another_folder(installed: Path, tmp_path: Path) -> None:
    dfm = str(installed / "bin" / "dfm")
    for words in (["--help"], ["recipes"], ["data", "list"]):
        done = run([sys.executable, dfm, *words], tmp_path, PYTHONPATH=str(installed))
        assert done.returncode == 0, done.stderr
    version = run([sys.executable, dfm, "--version"], tmp_path, PYTHONPATH=str(installed))
    assert re.fullmatch(r"domainfm \d+\.\d+\.\d+\n", version.stdout)


def test_doctor_of_the_wheel_knows_its_extras_from_the_metadata(
    installed: Path, repository: Path, tmp_path: Path
) -> None:
    code = (
        "import json; from core.cli import doctor\n"
        "print(json.dumps([doctor.requirements(), doctor.how_to_install('mri')]))"
    )
    of_wheel, hint = json.loads(run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(installed)).stdout)
    of_checkout, _ = json.loads(
        run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(repository)).stdout
    )
    assert {extra: set(wanted) for extra, wanted in of_wheel.items()} == {
        extra: set(wanted) for extra, wanted in of_checkout.items()
    }
    assert hint == "pip install 'domainfm[mri]'"


def test_wheel_finds_the_same_recipes_and_cards_as_the_checkout(
    installed: Path, repository: Path, tmp_path: Path
) -> None:
    code = (
        "from core.files import cards_folder, configs_folder\n"
        "for folder in (configs_folder(), cards_folder()):\n"
        "    print(folder.parent)\n"
        "    print(sorted(str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file()))\n"
    )
    of_wheel = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(installed)).stdout.splitlines()
    of_checkout = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(repository)).stdout.splitlines()
    assert of_wheel[0] == of_wheel[2] == str(installed)
    assert of_checkout[0] == str(repository)
    assert [of_wheel[1], of_wheel[3]] == [of_checkout[1], of_checkout[3]]


def test_every_dependency_is_pinned_and_every_extra_has_hyphens(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
        for line in (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    extras = project["optional-dependencies"]
    wanted = {
        re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~! ]", text)[0]).lower()
        for texts in (project["dependencies"], *extras.values())
        for text in texts
    }
    assert wanted - pins == {"domainfm"}
    assert [name for name in extras if "_" in name] == []
    whole = set(extras["all"][0].removeprefix("domainfm[").removesuffix("]").split(","))
    assert whole == set(extras) - {"all", "dev"}


@pytest.fixture
def bare_machine(repository: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A clone with only what making the environment reads, and a PATH of the tools every machine has."""
    clone, tools = tmp_path / "a clone", tmp_path / "tools"
    clone.mkdir()
    tools.mkdir()
    for name in (".ci", "pyproject.toml", "constraints.txt"):
        copy = shutil.copytree if (repository / name).is_dir() else shutil.copy2
        copy(repository / name, clone / name)
    for name in TOOLS:
        (tools / name).symlink_to(str(shutil.which(name)))
    return clone, tools


def environment(clone: Path, tools: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return run([".ci/environment", "timeseries"], clone, PATH=str(tools), PYTHON="", CONSTRAINTS="", **more)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        pytest.param(None, "No python3 was found: install Python 3.11 or newer", id="no Python"),
        pytest.param(
            "old 3.9", "python3 is Python 3.9 and domainfm needs Python 3.11 or newer", id="too old"
        ),
        pytest.param("bare", "install the system's venv package", id="no venv module"),
    ],
)
def test_unfit_python_is_named_in_one_sentence(
    bare_machine: tuple[Path, Path], answer: str | None, sentence: str
) -> None:
    clone, tools = bare_machine
    if answer:
        (tools / "python3").write_text(f"#!/bin/sh\necho {answer}\n", encoding="utf-8")
        (tools / "python3").chmod(0o755)
    done = environment(clone, tools)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (clone / ".venv").exists()


def test_unreachable_index_is_named_and_an_interrupted_environment_is_made_anew(
    bare_machine: tuple[Path, Path],
) -> None:
    clone, tools = bare_machine
    (clone / ".venv").mkdir()
    (clone / ".venv" / ".incomplete").write_text("environment\n", encoding="utf-8")
    (tools / "python3").symlink_to(sys.executable)
    nowhere = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": "",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    }
    done = environment(clone, tools, **nowhere)
    lines = done.stderr.strip().splitlines()
    assert done.returncode != 0
    assert lines[0] == "The environment .venv is incomplete or was made elsewhere: making it anew."
    assert lines[-1].startswith("The package index cannot be reached: check the network")
    assert len(lines) == 3
    assert not (clone / ".venv" / ".incomplete").exists()
