"""A missing optional package: one sentence that says how to install it, wherever it is first needed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from in_process import dfm


@pytest.mark.parametrize(
    "words",
    [
        ("remote-sensing", "fit", "--config", "prithvi/demo"),
        ("data", "generate", "remote_sensing/landscapes", "--scenes", 2, "--size", 32, "--out", "made"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DFM_DATA", str(tmp_path / "data"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "rasterio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    outcome = dfm(*words)
    assert outcome.code == 2, outcome.err
    assert outcome.err.splitlines()[-1] == (
        "dfm: this needs the optional package rasterio; install it with pip install "
        "'domainfm[remote-sensing]'"
    )
