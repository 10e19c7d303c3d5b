"""Parameter names read from source agree with what the interpreter sees."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module

import pytest

from core.cli.signatures import parameters

CERTAIN = [
    "core.task.Task",
    "core.optim.OneCycle",
    "core.adaptation.LoRA",  # a dataclass with an attribute of the class
    "core.accelerators.cpu.CPUSwitches",
    "core.data.module.DataModule",
    "apps.weather.data.Fields",  # another name of a class, in a lazy head
    "lightning.pytorch.trainer.trainer.Trainer",
    "torch.optim.AdamW",
]


@pytest.mark.parametrize("path", CERTAIN)
def test_the_source_gives_the_names_that_inspection_gives(path):
    module, _, name = path.rpartition(".")
    seen = list(inspect.signature(getattr(import_module(module), name)).parameters)
    assert parameters(path) == seen


@pytest.mark.parametrize("path", ["nowhere.at.All", "core.task.Nothing", "Task", "torch.nn.Linear.nothing"])
def test_an_unknown_name_is_not_certain(path):
    assert parameters(path) is None


def test_nothing_is_imported():
    code = (
        "import sys; from core.cli.signatures import parameters; parameters('core.task.Task'); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False"
