"""Generating: samples of their own seeds, restarts that give equal bytes, one sentence for every mistake."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from apps.pde.simulation.families import families, family
from apps.pde.simulation.families.family import Family, Problem, wrong_number
from apps.pde.simulation.generate import default_batch, ensure
from apps.pde.simulation.pdegym_writer import published_layout, write_netcdf
from core.data.sample_store import Store
from core.errors import UserError


def draw(generator, parameters):
    amplitudes = torch.rand(3, generator=generator, dtype=torch.float64) * 2 - 1
    return {"amplitude": amplitudes * parameters["scale"]}


def decay(problem):
    """Three sines that decay as heat does: the exact solution of u_t = nu u_xx."""
    dtype, device, parameters = problem.dtype, problem.device, problem.parameters
    x = torch.arange(problem.resolution, dtype=dtype, device=device) / problem.resolution
    k = torch.arange(1, 4, dtype=dtype, device=device)
    waves = torch.sin(2 * torch.pi * k[:, None] * x)
    fall = torch.exp(-parameters["nu"] * (2 * torch.pi * k) ** 2 * problem.times.to(dtype)[:, None])
    profile = torch.einsum("bk,tk,kx->btx", problem.drawn["amplitude"].to(dtype), fall, waves)
    y = torch.cos(2 * torch.pi * x)
    return torch.stack([profile[..., None] * y, profile[..., None] + y], dim=2)


HEAT = Family(
    name="sine_decay",
    title="Three decaying sines",
    equation="u_t = nu u_xx",
    source="exact",
    channels=("u", "v"),
    units={"u": "K"},
    snapshots=5,
    horizon=1.0,
    draw=draw,
    solve=decay,
    parameters={"nu": 0.01, "scale": 1.0},
    resolution=16,
)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DFM_DATA", str(tmp_path / "data"))


def make(samples, **how):
    return ensure(HEAT, samples, progress=False, **how)


def test_samples_are_the_exact_solution_of_their_own_draws():
    store = Store.open(make(2))

    from core.data.randomness import generator

    drawn = draw(generator(0, 0, 1, "sine_decay"), HEAT.parameters)
    expected = decay(
        Problem(
            {"amplitude": drawn["amplitude"][None]},
            resolution=16,
            times=HEAT.times(),
            parameters=HEAT.parameters,
            dtype=torch.float64,
            device="cpu",
        )
    )
    np.testing.assert_allclose(store.read(1), expected[0].numpy(), atol=1e-6)


def test_a_sample_is_the_same_whatever_the_batch_and_the_number_of_samples(tmp_path):
    alone = make(3, batch=1, folder=tmp_path / "one")
    many = make(7, batch=4, folder=tmp_path / "many")

    first, second = Store.open(alone), Store.open(many)
    for sample in range(3):
        np.testing.assert_array_equal(first.read(sample), second.read(sample))


def test_more_samples_later_extend_the_same_store():
    path = make(2)
    before = Store.open(path).read(1)

    assert make(5) == path
    assert Store.open(path).complete().tolist() == [True] * 5
    np.testing.assert_array_equal(Store.open(path).read(1), before)


def test_extended_store_equals_one_made_at_once(tmp_path):
    make(2, batch=2, folder=tmp_path / "a")
    make(6, batch=2, folder=tmp_path / "a")
    make(6, batch=2, folder=tmp_path / "b")

    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_what_is_there_is_not_solved_again():
    path = make(3)
    broken = replace(HEAT, solve=None)

    assert ensure(broken, 3, progress=False) == path


def test_other_settings_have_a_cache_of_their_own():
    paths = {
        make(1),
        make(1, seed=1),
        make(1, resolution=8),
        make(1, parameters={"nu": 0.02}),
        make(1, snapshots=3),
    }

    assert len(paths) == 5


def test_resolutions_share_their_physical_sample():
    coarse, fine = Store.open(make(1, resolution=8)), Store.open(make(1, resolution=16))

    np.testing.assert_allclose(coarse.read(0), fine.read(0)[:, :, ::2, ::2], atol=1e-6)


SLOW = """
import sys, time
sys.path.insert(0, {tests!r})
import test_generate as t
from dataclasses import replace
def slowly(problem):
    time.sleep(0.15)
    return t.decay(problem)
t.ensure(replace(t.HEAT, solve=slowly), 24, batch=2, folder={folder!r}, progress=False)
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    code = SLOW.format(tests=str(Path(__file__).parent), folder=str(folder))
    root = str(Path(__file__).parents[3])
    return subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, stderr=subprocess.PIPE
    )


def wait_for(condition, seconds=40.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the other process did not come that far"
        time.sleep(0.01)


def some_are_done(folder: Path, count: int) -> bool:
    return len(list(folder.glob("fields/c/*"))) >= count


def test_killed_run_goes_on_and_equals_an_unbroken_one(tmp_path):
    folder = tmp_path / "killed"
    process = start(folder)
    wait_for(lambda: some_are_done(folder, 5))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()

    done = Store.open(folder).complete()
    assert 0 < done.sum() < 24
    make(24, batch=2, folder=folder)
    make(24, batch=2, folder=tmp_path / "whole")
    assert contents(folder) == contents(tmp_path / "whole")


def test_two_processes_wait_for_each_other(tmp_path):
    folder = tmp_path / "both"
    other = start(folder)
    wait_for(lambda: some_are_done(folder, 2))

    make(24, batch=2, folder=folder)

    assert other.wait(timeout=40) == 0, other.stderr.read()
    other.stderr.close()
    make(24, batch=2, folder=tmp_path / "whole")
    assert contents(folder) == contents(tmp_path / "whole")


def test_solution_that_is_not_finite_names_the_sample_and_keeps_the_others(tmp_path):
    def broken(problem):
        values = decay(problem)
        values[1, -1] = float("inf")
        return values

    with pytest.raises(UserError, match=r"sample 1 of sine_decay .*nu=0.01.* is not finite"):
        ensure(replace(HEAT, solve=broken), 3, batch=3, folder=tmp_path / "s", progress=False)
    assert Store.open(tmp_path / "s").complete().tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"parameters": {"scales": 1.0}}, "has no parameter 'scales'; did you mean 'scale'"),
        ({"parameters": {"nu": float("nan")}}, "must be a finite number"),
        ({"resolution": 2}, "at least 4 points"),
        ({"snapshots": 1}, "has at least 2"),
        ({"batch": 0}, "batch is 0"),
        ({"seed": -1}, "the seed is -1"),
        ({"dtype": "float16"}, "must be float32 or float64"),
        ({"device": "tpuu"}, "there is no device 'tpuu'"),
        ({"resolution": "8"}, "the resolution is '8'; it must be a whole number"),
        ({"seed": 1.5}, "the seed is 1.5; it must be a whole number"),
        ({"batch": "2"}, "batch is '2'; it must be a whole number"),
        ({"parameters": {"nu": "a"}}, "parameter nu of sine_decay is a; it must be a finite number"),
        ({"parameters": ["nu"]}, "must be names with numbers"),
        ({"folder": 3}, "the folder is 3; it must be a path"),
        ({"device": 3}, "the device is 3"),
    ],
)
def test_mistakes_are_told_in_one_sentence(how, told):
    with pytest.raises(UserError, match=told):
        make(1, **how)


@pytest.mark.parametrize(
    ("name", "how", "told"),
    [
        ("ns_sines", {"resolution": 9}, r"ns_sines \(seed 0, resolution 9, damping=0.05.* an even number of"),
        ("ns_sines", {"parameters": {"damping": -1.0}}, "damping is -1; it must be 0 or more"),
        ("ns_sines", {"parameters": {"cfl": -1.0}}, "cfl is -1; it must be positive"),
        ("ns_sines", {"parameters": {"cfl": 40.0}}, "cfl is 40; no scheme is stable"),
        ("wave_gauss", {"parameters": {"cfl": 0.9}}, "wave_gauss .*cfl=0.9.* leapfrog needs"),
        ("darcy", {"parameters": {"low": -3.0}}, "low is -3; it must be positive"),
        ("ce_rp", {"parameters": {"gamma": 1.0}}, "gamma is 1; it must be above 1"),
        ("ce_gauss", {"parameters": {"vortices": -1.0}}, "vortices is -1; it must be a whole number"),
        ("ce_rp", {"parameters": {"speed": 1e200}}, "ce_rp .*speed=1e\\+200"),
        ("burgers", {"parameters": {"viscosity": 0.0}}, "burgers .*viscosity=0.* above 0"),
        ("swe_dam_break", {"parameters": {"radius_low": 0.9}}, "radius_low is 0.9, above radius_high"),
    ],
)
def test_numbers_that_cannot_be_solved_name_the_family_and_leave_no_store(name, how, told, tmp_path):
    folder = tmp_path / "s"
    settings = {"resolution": 8, "snapshots": 1 if family(name).steady else 2, **how}

    with pytest.raises(UserError, match=told) as raised:
        ensure(name, 1, folder=folder, progress=False, **settings)

    assert "\n" not in str(raised.value) and not folder.exists()


def test_every_family_has_numbers_that_are_allowed():
    assert {one.name: wrong_number(one.parameters) for one in families().values()} == dict.fromkeys(
        families(), ""
    )


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    make(1, folder=tmp_path / "s")

    with pytest.raises(UserError, match="holds trajectories with seed 0, not 1"):
        make(1, seed=1, folder=tmp_path / "s")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="is no Zarr group"):
        make(1, folder=tmp_path / "other")


def test_progress_is_a_plain_line_where_there_is_no_terminal(capsys):
    ensure(HEAT, 3)

    err = capsys.readouterr().err
    assert err.startswith("sine_decay  3/3 trajectories") and err.count("\n") == 1


def test_batches_shrink_as_grids_grow():
    sizes = [default_batch(HEAT, resolution, 5) for resolution in (16, 64, 256, 1024)]

    assert sizes == sorted(sizes, reverse=True) and sizes[-1] >= 1


LONGER_STEPS = {"diesel_engine": {"step": 0.05}}


@pytest.mark.parametrize("name", list(families()))
def test_every_family_is_kept_and_published_with_its_own_layout(name, tmp_path):
    one = family(name)
    frames = 1 if one.steady else 2
    short = replace(one, horizon=one.horizon / (one.snapshots - 1 or 1))

    path = ensure(
        short, 2, resolution=16, snapshots=frames, batch=2, folder=tmp_path / "s", progress=False,
        parameters=LONGER_STEPS.get(name),
    )  # fmt: skip

    store = Store.open(path)
    assert store.complete().all() and store.space == (16,) * one.space
    file = write_netcdf(store, one, tmp_path / "p.nc", samples=2)
    layout = published_layout(one)
    with h5py.File(file) as written:
        for variable, channels in layout.variables.items():
            held = written[variable]
            assert held.shape[0] == 2 and held.shape[-one.space :] == store.space
            steps = [] if one.steady or variable in layout.constants else [frames]
            fields = [len(channels)] if len(channels) > 1 else []
            assert list(held.shape[1 : held.ndim - one.space]) == steps + fields
