"""`dfm` in this process, which leaves the process as it was."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from core.cli import main

__all__ = ["Outcome", "dfm", "restored"]


class Outcome(NamedTuple):
    """What one call of `dfm` gave back."""

    code: int
    out: str
    err: str


def dfm(*words: object) -> Outcome:
    """Run `dfm words` in this process; what a process of its own would leave behind is put back."""
    out, err = io.StringIO(), io.StringIO()
    with restored(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return Outcome(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Put back what a run in this process would leave behind."""
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
