"""The same small run in this process and on two processes of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from in_process import dfm

__all__ = ["folders_of"]


def folders_of(
    words: Sequence[str], recipe: str, *, launching: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Path]:
    """Run `dfm words` with a recipe in both ways, and return the working folders."""
    monkeypatch.setenv("DFM_DATA", str(folder / "data"))
    words = [*words, "--config", "small.yaml"]
    ends = []
    for name, more in {"one": [], "two": ["--config", "trainer/ddp", "--trainer.devices=2"]}.items():
        own = folder / name
        own.mkdir()
        (own / "small.yaml").write_text(recipe)
        if more:
            given = [sys.executable, "-m", "core.cli", *words, *more]
            end = launching.outcome(launching.command(given, own, launching.environment(own)))
            assert end.codes == [0], end.out
        else:
            monkeypatch.chdir(own)
            code, out, err = dfm(*words)
            assert code == 0, out + err
        ends.append(own)
    return ends
