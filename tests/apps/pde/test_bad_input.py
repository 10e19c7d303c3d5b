"""Bad files through the command line: one sentence each, code 2, and nothing on the disk is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from in_process import dfm

FIELDS = ["velocity_x", "velocity_y"]
NETWORK = {
    "class_path": "apps.pde.models.gphyt.GPhyT",
    "init_args": {
        "resolution": 8, "patch": [1, 4, 4], "in_channels": 2, "out_channels": 2, "width": 8, "hidden": 8,
        "heads": 2, "depth": 1, "frames": 2,
    },
}  # fmt: skip


def flow(
    path: Path, *, size: tuple[int, int] = (8, 8), spoil: bool = False, name: str = "velocity_x"
) -> Path:
    """A netCDF-4 file with two fields on (sample, time, x, y)."""
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        axes = ("sample", "time", "x", "y")
        for axis, many in zip(axes, (6, 4, *size), strict=True):
            file[axis] = np.arange(many, dtype="f8")
            file[axis].make_scale(axis)
        for field in (name, "velocity_y"):
            file[field] = random.normal(size=(6, 4, *size)).astype("f4")
            for place, axis in enumerate(axes):
                file[field].dims[place].attach_scale(file[axis])
        if spoil:
            file["velocity_y"][0, 1, 2, 3] = np.nan
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a recipe, a good file and bad ones, which is the working folder meanwhile."""
    folder = tmp_path_factory.mktemp("bad")
    recipe = {
        "about": {"system": "gphyt"},
        "seed_everything": 1,
        "model": {
            "class_path": "apps.pde.tasks.Operator",
            "init_args": {
                "network": NETWORK,
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
            },
        },
        "data": {
            "class_path": "apps.pde.data.Fields",
            "init_args": {
                "path": "good.nc", "inputs": FIELDS, "outputs": FIELDS, "frames": 2,
                "windows": {"class_path": "apps.pde.data.Histories", "init_args": {"horizon": 1}},
                "val_trajectories": 1, "test_trajectories": 1,
            },
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "num_sanity_val_steps": 0},
    }  # fmt: skip
    (folder / "own.yaml").write_text(yaml.safe_dump(recipe))
    flow(folder / "good.nc")
    flow(folder / "wide.nc", size=(8, 16))
    flow(folder / "fine.nc", size=(16, 16))
    flow(folder / "other.nc", name="velocity_u")
    flow(folder / "nan.nc", spoil=True)
    whole = (folder / "good.nc").read_bytes()
    (folder / "half.nc").write_bytes(whole[: len(whole) // 2])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def kept(folder: Path) -> dict[str, bytes]:
    """All files under a folder, as they are."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def sentences(err: str) -> list[str]:
    """What was said but for notes on how the data are scaled."""
    return [line for line in err.splitlines() if not line.startswith("data: ")]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data.path", "wide.nc"], "works on a grid of 8 x 8 and the data has 8 x 16"),
        (["--data.path", "fine.nc"], "works on a grid of 8 x 8 and the data has 16 x 16"),
        (["--data.path", "other.nc"], "other.nc has no channel 'velocity_x'"),
        (["--data.inputs=[velocity_x,velocty_y]"], "did you mean 'velocity_y'"),
        (["--data.path", "nan.nc"], "nan.nc has values of velocity_y that are no numbers"),
        (["--data.path", "half.nc"], "half.nc is cut off"),
        (["--data.path", "gone.nc"], "gone.nc"),
        (
            ["--data.path=null", "--data.mixture.sources=[{path: good.nc}, {path: fine.nc}]"],
            "data.prepare.resolution",
        ),
    ],
)
def test_a_fit_refuses_it_and_leaves_no_run(place, words, sentence):
    before = kept(place)

    code, out, err = dfm("pde", "fit", "--config", "own.yaml", *words)

    assert code == 2, out + err
    assert len(sentences(err)) == 1 and sentence in err
    assert kept(place) == before
