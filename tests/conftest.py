"""Fixtures for every test; one thread is set before torch is imported, or two workers fight for two cores."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("seeded", derandomize=True)  # the same examples everywhere, as all else here
settings.load_profile("seeded")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Weights and data that a test draws are the same on every machine and in any order of tests."""
    import random

    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


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


def _offline_records(path: Path) -> Iterator[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, body = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (room := 32768 - place % 32768) < 7:
            place += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if kind == 0:
            return
        part = data[place + 7 : place + 7 + length]
        place += 7 + length
        body = part if kind in (1, 2) else body + part  # 1 whole, 2 first, 3 middle, 4 last
        if kind in (1, 4):
            yield Record.FromString(body)


@pytest.fixture(scope="session")
def offline_records() -> Callable[[Path], Iterator[Any]]:
    """Read an offline W&B run's file, a LevelDB log in blocks of 32 KiB; wandb has no reader any more."""
    return _offline_records
