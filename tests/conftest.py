"""Fixtures for every test; one thread is set before torch is imported, or two workers fight for two cores."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared(repository: Path) -> Path:
    """The folder of recorded cases and real data beside the checkout; the test is skipped without it."""
    folder = repository.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder ../shared with recorded cases and real data beside the checkout")
    return folder
