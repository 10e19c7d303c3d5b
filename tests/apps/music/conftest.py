"""What a run of `dfm` in this process leaves behind is put back after each file of tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def restored() -> Iterator[None]:
    """Put back the environment, the threads and the precision of products."""
    environment = dict(os.environ)
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    yield
    os.environ.clear()
    os.environ.update(environment)
    torch.set_float32_matmul_precision(precision)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
    gc.unfreeze()
