"""`Fields`: constants, masks, mixtures, splits, determinism, memory and mistakes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from apps.pde.batch import FieldFacts
from apps.pde.data.card_details import details_of
from apps.pde.data.module import Fields
from apps.pde.data.settings import FieldPreparation, Generation, SourceMixture
from apps.pde.data.window_settings import EvaluationSet, Histories, Pairs
from core.data.cards import load_card
from core.errors import UserError


def velocity(path: Path, *, count: int = 10, steps: int = 21, size: int = 8, seed: int = 0) -> Path:
    """A small file in PDEgym's layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).normal(size=(count, steps, 3, size, size)).astype("f4")
    with h5py.File(path, "w") as file:
        file["velocity"] = values
    return path


def euler(path: Path, *, count: int = 10, steps: int = 21, size: int = 8) -> Path:
    with h5py.File(path, "w") as file:
        file["data"] = np.random.default_rng(1).uniform(0.5, 1.5, (count, steps, 5, size, size)).astype("f4")
    return path


def read(path: Path, name: str = "velocity") -> np.ndarray:
    with h5py.File(path) as file:
        return file[name][()]


def batch(data: Fields, where=((0, 0), (0, 5), (0, 40))):
    return data.train_set().__getitems__(list(where))


def test_a_card_scales_fills_and_masks_as_published(tmp_path):
    path = velocity(tmp_path / "NS-Sines.nc")
    data = Fields(path=str(path), card="ns_sines")

    got, raw = batch(data), read(path)

    assert got.inputs.shape == (3, 1, 4, 8, 8) and got.targets.shape == (3, 1, 4, 8, 8)
    # sample 5 is the sixth pair, (0, 10); sample 40 the fifth of the second trajectory, (0, 8)
    assert got.snapshots.tolist() == [[0, 0], [0, 10], [0, 8]] and got.trajectory.tolist() == [0, 0, 1]
    assert got.time.ravel().tolist() == pytest.approx([0.0, 0.5, 0.4])
    torch.testing.assert_close(got.targets[1, 0, 1], torch.from_numpy(raw[0, 10, 0] / 0.391))
    torch.testing.assert_close(got.targets[2, 0, 2], torch.from_numpy(raw[1, 8, 1] / 0.356))
    assert got.inputs[:, :, 0].unique().item() == pytest.approx(0.2 / 0.31)
    assert got.inputs[:, :, 3].unique().item() == 0.0
    assert got.mask.tolist() == [[False, False, False, True]] * 3


def test_the_facts_say_how_to_get_physical_values_back(tmp_path):
    path = euler(tmp_path / "CE-RP.nc")
    data = Fields(path=str(path), card="ce_rp")

    facts, got = data.facts, batch(data, [(0, 3)])

    one = facts.datasets[0]
    assert facts.groups == (0, 1, 3, 4) and facts.group_names == ("density", "velocity", "pressure")
    assert one.out_mean == (0.8, 0.0, 0.0, 0.215) and one.interest == facts.outputs
    mean, std = (torch.tensor(values).view(4, 1, 1) for values in (one.out_mean, one.out_std))
    back = got.targets[0, 0] * std + mean
    torch.testing.assert_close(back, torch.from_numpy(read(path, "data")[0, 6, :4]), rtol=0, atol=1e-6)
    assert FieldFacts.from_plain(facts.plain()) == facts and facts.space == (8, 8)


def test_only_velocities_can_be_asked_for(tmp_path):
    path = velocity(tmp_path / "NS-Sines.nc")
    data = Fields(path=str(path), card="ns_sines", inputs=["velocity_x", "velocity_y"])

    got = batch(data)

    assert got.inputs.shape[2] == got.targets.shape[2] == 2 and got.mask is None
    assert data.facts.outputs == ("velocity_x", "velocity_y") and data.facts.groups == (0, 2)


def test_the_tracer_task_and_the_forcing(tmp_path):
    path = velocity(tmp_path / "NS-PwC.nc")
    got = batch(Fields(path=str(path), card="ns_tracer_pwc"))
    torch.testing.assert_close(
        got.inputs[2, 0, 4],
        torch.from_numpy((read(path)[1, 0, 2] - np.float32(0.19586183)) / np.float32(0.37)),
    )

    with h5py.File(tmp_path / "FNS-KF.nc", "w") as file:
        file["solution"] = np.zeros((10, 21, 2, 8, 8), "f4")
    got = batch(Fields(path=str(tmp_path / "FNS-KF.nc"), card="fns_kf"))
    x = np.linspace(0, 1, 8)
    forcing = (0.1 * np.sin(2 * np.pi * (x[:, None] + x)) + 1.2996679e-9) / 0.0707106739
    torch.testing.assert_close(got.inputs[0, 0, 4], torch.from_numpy(forcing.astype("f4")), rtol=0, atol=1e-6)
    assert got.mask[0].tolist() == [False, False, False, True, False]


def test_the_airfoil_is_masked_point_by_point(tmp_path):
    values = np.full((10, 2, 4, 4), 0.95, "f4")
    values[:, 0] = np.eye(4)
    with h5py.File(tmp_path / "SE-AF.nc", "w") as file:
        file["solution"] = values
    got = batch(Fields(path=str(tmp_path / "SE-AF.nc"), card="se_af"), [(0, 0)])

    inside = torch.eye(4, dtype=torch.bool)
    torch.testing.assert_close(got.inputs[0, 0, 0], torch.eye(4))
    assert torch.equal(got.mask[0, 0], inside) and (got.targets[0, 0, 0][inside] == 1).all()
    torch.testing.assert_close(
        got.targets[0, 0, 0][~inside], torch.full((12,), (0.95 - 0.92984116) / 0.10864315)
    )
    assert got.time.tolist() == [[1.0]]


def test_a_mixture_maps_both_layouts_onto_the_networks_channels(tmp_path):
    sources = [
        {"path": str(velocity(tmp_path / "NS-Sines.nc")), "card": "ns_sines"},
        {"path": str(euler(tmp_path / "CE-RP.nc")), "card": "ce_rp"},
    ]
    data = Fields(windows=Pairs(max_steps=10), mixture=SourceMixture(sources=sources))

    train = data.train_set()
    got = train.__getitems__([(0, len(train) - 1), (0, 0), (0, len(train) - 2)])

    assert len(train) == 2 * 8 * 66
    assert got.source.tolist() == [1, 0, 1] and got.snapshots[0].tolist() == [20, 20]
    assert got.mask[:, 3].tolist() == [False, True, False]
    assert data.facts.inputs == ("density", "velocity_x", "velocity_y", "pressure")
    alone = (
        Fields(path=sources[1]["path"], card="ce_rp", windows=Pairs(max_steps=10))
        .train_set()
        .__getitems__([(0, 8 * 66 - 1)])
    )
    assert torch.equal(got.inputs[0], alone.inputs[0])


def test_weights_share_the_samples_out(tmp_path):
    sources = [
        {"path": str(velocity(tmp_path / "NS-Sines.nc")), "card": "ns_sines", "weight": 3.0},
        {"path": str(euler(tmp_path / "CE-RP.nc")), "card": "ce_rp", "weight": 1.0},
    ]
    train = Fields(mixture=SourceMixture(sources=sources, samples=80)).train_set()

    drawn = train.__getitems__([(0, k) for k in range(80)])

    assert torch.bincount(drawn.source).tolist() == [60, 20]


def test_files_without_a_card_are_standardised_with_the_training_part_alone(tmp_path):
    path = velocity(tmp_path / "mine.nc", count=10, steps=5)
    data = Fields(path=str(path), val_trajectories=2, test_trajectories=3)

    raw, one = read(path)[:5].astype("f8"), data.facts.datasets[0]

    assert one.mean == pytest.approx(raw.mean((0, 1, 3, 4)), abs=1e-9)
    assert one.std == pytest.approx(raw.std((0, 1, 3, 4)), rel=1e-9)
    assert one.time_constant == 4.0
    assert data.val_set()[0, 0].trajectory.item() == 5
    tests = data.test_set()
    assert [tests[0, k].trajectory.item() for k in range(len(tests))] == [7, 8, 9]


def test_the_test_set_does_not_depend_on_how_many_are_trained_on(tmp_path):
    path = str(velocity(tmp_path / "NS-Sines.nc", count=40))

    few, all_of_them = (Fields(path=path, card="ns_sines", trajectories=n) for n in (4, -1))

    assert len(few.train_set()) == 4 * 36 and len(all_of_them.train_set()) == 32 * 36
    for name in ("val_set", "test_set"):
        first, second = (getattr(data, name)() for data in (few, all_of_them))
        assert len(first) == len(second)
        assert torch.equal(first[0, 0].targets, second[0, 0].targets)


def test_a_test_sample_is_the_first_frame_and_all_that_follow(tmp_path):
    data = Fields(path=str(velocity(tmp_path / "NS-Sines.nc")), card="ns_sines", test=EvaluationSet(steps=10))

    one = data.test_set()[0, 0]

    assert one.snapshots.tolist() == [[0, *range(2, 21, 2)]]
    torch.testing.assert_close(one.time[0], torch.arange(1, 11) / 10)
    assert one.targets.shape == (1, 10, 4, 8, 8)


def test_histories_and_steady_pairs(tmp_path):
    path = str(velocity(tmp_path / "mine.nc", steps=14))
    data = Fields(path=path, frames=4, windows=Histories(horizon=2, strides=[1, 2]))
    got = batch(data, [(0, k) for k in range(30)])
    assert got.inputs.shape == (30, 4, 3, 8, 8) and got.targets.shape == (30, 2, 3, 8, 8)
    assert len(data.train_set()) == 8 * 14 and data.facts.frames == 4
    assert set((got.snapshots[:, 1] - got.snapshots[:, 0]).tolist()) == {1, 2}
    assert data.test_set()[0, 0].targets.shape[1] == 10


def test_histories_start_elsewhere_in_every_source(tmp_path):
    files = [velocity(tmp_path / f"{name}.nc", steps=30) for name in "ab"]
    data = Fields(windows=Histories(), mixture=SourceMixture(sources=[{"path": str(file)} for file in files]))

    train = data.train_set()

    half = len(train) // 2
    first, second = (train.__getitems__([(0, k + start) for k in range(20)]) for start in (0, half))
    assert not torch.equal(first.snapshots, second.snapshots)


@pytest.mark.parametrize("how", [{}, {"windows": Histories(), "frames": 2}])
def test_test_sets_of_different_lengths_are_cut_to_the_shortest(tmp_path, capsys, how):
    files = [velocity(tmp_path / f"{steps}.nc", steps=steps) for steps in (9, 6)]
    data = Fields(mixture=SourceMixture(sources=[{"path": str(file)} for file in files]), **how)

    test = data.test_set()

    got, labels = test.__getitems__([(0, 0), (0, len(test) - 1)]), 4 if how else 5
    assert got.source.tolist() == [0, 1] and got.targets.shape[1] == labels
    assert f"cut to {labels} label frames (9 has {labels + 3}, 6 has {labels})" in capsys.readouterr().err


def test_a_test_can_start_at_every_frame(tmp_path):
    path = str(velocity(tmp_path / "mine.nc", steps=14))
    data = Fields(path=path, frames=4, windows=Histories(), test=EvaluationSet(steps=8, starts="all"))

    test = data.test_set()

    assert len(test) == 3 and test[0, 2].snapshots.tolist() == [[5, *range(6, 14)]]
    with pytest.raises(UserError, match=r"needs data\.test\.steps"):
        Fields(path=path, frames=4, windows=Histories(), test=EvaluationSet(starts="all")).test_set()


def test_validation_can_roll_out_longer_than_the_training(tmp_path):
    path = str(velocity(tmp_path / "mine.nc", steps=14))
    data = Fields(path=path, frames=4, windows=Histories(val_horizon=6))

    assert data.train_set()[0, 0].targets.shape[1] == 1
    assert len(data.val_set()) == 5 and data.val_set()[0, 4].snapshots.tolist() == [[7, *range(8, 14)]]


@pytest.mark.parametrize(
    ("card", "frames", "steps", "labels"), [("ins", 4, 14, 10), ("swe", 2, 11, 9), ("cns", 10, 21, 11)]
)
def test_the_cards_of_histories_decide_frames_and_the_length_of_the_test(
    tmp_path, card, frames, steps, labels
):
    names = [channel["name"] for channel in load_card(card).details["channels"]]
    path = tmp_path / "mine.nc"
    with h5py.File(path, "w") as file:
        axes = ("sample", "time", "x", "y")
        for axis, many in zip(axes, (10, steps + 2, 4, 4), strict=True):
            file[axis] = np.arange(many, dtype="f8")
            file[axis].make_scale(axis)
        for name in names:
            file[name] = np.ones((10, steps + 2, 4, 4), "f4")
            for place, axis in enumerate(axes):
                file[name].dims[place].attach_scale(file[axis])
    data = Fields(path=str(path), card=card)

    train, test = data.train_set()[0, 0], data.test_set()[0, 0]

    assert (data.facts.windows, data.facts.frames) == ("history", frames)
    assert train.inputs.shape[1:3] == (frames, len(names)) and train.targets.shape[1] == 1
    assert test.targets.shape[1] == labels
    own = Fields(
        path=str(path), card=card, frames=1, windows=Histories(horizon=2), test=EvaluationSet(steps=3)
    )
    assert own.facts.frames == 1 and own.train_set()[0, 0].targets.shape[1] == 2
    assert own.test_set()[0, 0].targets.shape[1] == 3
    assert Fields(path=str(path), card=card, windows=Pairs()).facts.frames == 1


def test_the_longer_variant_of_a_card_can_be_asked_for(tmp_path):
    path = str(velocity(tmp_path / "NS-Sines.nc"))
    usual, longer = (Fields(path=path, card="ns_sines", windows=Pairs(extended=how)) for how in (False, True))

    assert (len(usual.train_set()), len(longer.train_set())) == (8 * 36, 8 * 66)
    assert longer.test_set()[0, 0].snapshots[0, -1] == 20


@pytest.mark.parametrize(
    ("how", "reach"),
    [
        ({}, 20),
        ({"windows": Pairs(max_steps=3)}, 3),
        ({"windows": Pairs(max_steps=3, step=2)}, 6),
        ({"windows": Pairs(max_steps=3, lead_steps=[1, 50])}, 1),
        ({"windows": Pairs(max_steps=3, fix_input_to=0)}, 3),
        ({"windows": Pairs(max_steps=3, fix_input_to=2, lead_steps=[1])}, 1),
        ({"windows": Histories(horizon=4, strides=[1, 2]), "frames": 2}, 2),
        ({"windows": Histories(strides=[1, 2, 30]), "frames": 2}, 2),
    ],
)
def test_reach_is_the_longest_lead_that_is_trained(tmp_path, how, reach):
    data = Fields(path=str(velocity(tmp_path / "mine.nc")), **how)

    assert data.facts.datasets[0].reach == reach


def test_any_number_of_workers_gives_the_same_batches(tmp_path):
    path = str(velocity(tmp_path / "mine.nc", steps=6))

    def epoch(keep_mb=512.0, **how):
        data = Fields(
            path=path,
            frames=2,
            batch_size=7,
            seed=3,
            windows=Histories(),
            prepare=FieldPreparation(normalise="none", flips=True, keep_mb=keep_mb),
            **how,
        )
        data.setup()
        return [(one.inputs, one.snapshots) for one in data.train_dataloader()]

    plain, workers, unheld = epoch(), epoch(num_workers=2), epoch(keep_mb=0.0)

    for other in (workers, unheld):
        assert len(plain) == len(other)
        assert all(
            torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(plain, other, strict=True)
        )


def test_mirrored_flows_change_the_sign_of_the_component_along_the_axis(tmp_path):
    path = velocity(tmp_path / "mine.nc", steps=2)
    data = Fields(path=str(path), windows=Histories(), prepare=FieldPreparation(normalise="none", flips=True))
    raw = torch.from_numpy(read(path))
    got = batch(data, [(0, k) for k in range(16)])

    kinds = set()
    for k in range(16):
        one = raw[got.trajectory[k], got.snapshots[k, 0]]
        for kind in ([], [0], [1], [0, 1]):
            mirrored = one.flip([1 + axis for axis in kind]).clone()
            mirrored[kind] *= -1
            if torch.equal(mirrored, got.inputs[k, 0]):
                kinds.add(tuple(kind))
    assert kinds == {(), (0,), (1,), (0, 1)}


def labelled(path: Path, names: Sequence[str]) -> Path:
    """A netCDF-4 file with random fields on (sample, time, x, y)."""
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        axes = ("sample", "time", "x", "y")
        for axis, many in zip(axes, (10, 3, 6, 6), strict=True):
            file[axis] = np.arange(many, dtype="f8")
            file[axis].make_scale(axis)
        for name in names:
            file[name] = random.normal(size=(10, 3, 6, 6)).astype("f4")
            for place, axis in enumerate(axes):
                file[name].dims[place].attach_scale(file[axis])
    return path


def mirrored_signs(path: Path, names: Sequence[str], **how) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return (mirrored axes, sign of each field) of some samples of a file."""
    data = Fields(
        path=str(path),
        inputs=list(names),
        windows=Histories(),
        prepare=FieldPreparation(normalise="none", flips=True, **how),
    )
    got, found = batch(data, [(0, k) for k in range(16)]), set()
    raw = torch.stack([torch.from_numpy(read(path, name)) for name in names], dim=2)
    for k in range(16):
        one = raw[got.trajectory[k], got.snapshots[k, 0]]
        for axes in ((), (0,), (1,), (0, 1)):
            mirrored = one.flip([1 + axis for axis in axes])
            if torch.equal(mirrored.abs(), got.inputs[k, 0].abs()):
                found.add((axes, tuple((mirrored * got.inputs[k, 0]).mean((1, 2)).sign().int().tolist())))
    return found


def test_components_of_other_names_are_named_or_refused(tmp_path):
    path = labelled(tmp_path / "mine.nc", ["u", "v"])

    with pytest.raises(UserError, match=r"mirrors u, v of mine, .* name those in data.prepare.vectors"):
        mirrored_signs(path, ["u", "v"])
    with pytest.raises(UserError, match=r"data\.prepare\.vectors has 'w', which is no field"):
        mirrored_signs(path, ["u", "v"], vectors=[["u", "w"]])
    with pytest.raises(UserError, match="has 2 axes"):
        mirrored_signs(path, ["u", "v"], vectors=[["u", "v", "u"]])

    vector, scalars = (mirrored_signs(path, ["u", "v"], vectors=how) for how in ([["u", "v"]], []))
    assert vector == {((), (1, 1)), ((0,), (-1, 1)), ((1,), (1, -1)), ((0, 1), (-1, -1))}
    assert scalars == {(axes, (1, 1)) for axes, _ in vector}


def test_fields_for_every_axis_are_a_vector_or_a_tensor(tmp_path):
    names = ["force_x", "force_y", "stress_xx", "stress_xy", "stress_yx", "stress_yy", "size_x"]
    found = mirrored_signs(labelled(tmp_path / "mine.nc", names), names)

    assert ((0,), (-1, 1, 1, -1, -1, 1, 1)) in found and ((0, 1), (-1, -1, 1, 1, 1, 1, 1)) in found


def test_a_filled_forcing_is_mirrored_with_the_flow(tmp_path):
    with h5py.File(tmp_path / "FNS-KF.nc", "w") as file:
        file["solution"] = np.random.default_rng(0).normal(size=(10, 21, 2, 8, 8)).astype("f4")
    how = {"path": str(tmp_path / "FNS-KF.nc"), "card": "fns_kf"}
    plain, flipped = (
        batch(Fields(prepare=FieldPreparation(flips=on), **how), [(0, k) for k in range(16)])
        for on in (False, True)
    )

    kinds = set()
    for before, after in zip(plain.inputs[:, 0], flipped.inputs[:, 0], strict=True):
        for axes in ((), (0,), (1,), (0, 1)):
            mirrored = before[[1, 4]].flip([1 + axis for axis in axes]) * (-1 if 0 in axes else 1)
            if torch.equal(mirrored[0], after[1]):
                torch.testing.assert_close(mirrored[1], after[4], rtol=0, atol=1e-6)
                kinds.add(axes)
    assert len(kinds) == 4


def test_a_coarser_grid_keeps_every_kth_point(tmp_path):
    path = velocity(tmp_path / "mine.nc", steps=3)
    data = Fields(path=str(path), prepare=FieldPreparation(resolution=[4, 8], normalise="none"))

    got = batch(data, [(0, 0)])

    assert torch.equal(got.inputs[0, 0], torch.from_numpy(read(path)[0, 0, :, ::2]))
    assert data.facts.space == (4, 8) and data.facts.datasets[0].coordinates["x"] == (0.0, 0.75, 4)


def test_generated_families_are_made_once_and_mixed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DFM_DATA", str(tmp_path))

    def make():
        return Fields(
            windows=Pairs(max_steps=2),
            generate=Generation({"ns_sl": 5, "heat": 4}, resolution=8, snapshots=3),
        )

    first = make().train_set()[0, 0]
    made = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("c/*"))
    second = make()

    assert torch.equal(first.inputs, second.train_set()[0, 0].inputs)
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("c/*")) == made
    facts = second.facts
    assert facts.inputs == ("density", "velocity_x", "velocity_y", "pressure", "temperature")
    flow, heat = facts.datasets
    assert (flow.masked, heat.masked) == (("pressure", "temperature"), facts.inputs[:4])
    # Three snapshots over the same time: two steps are the published twenty.
    assert flow.time_constant == pytest.approx(2.0) and heat.interest == ("temperature",)


def test_a_checkpoints_constants_can_be_used_on_other_data(tmp_path):
    first = Fields(path=str(velocity(tmp_path / "NS-Sines.nc")), card="ns_sines")
    other = Fields(path=str(velocity(tmp_path / "mine.nc", steps=1, seed=5)), windows=Pairs())
    other.use_statistics(first.facts)

    got = other.predict_set().__getitems__([(0, 9), (0, 0)])

    assert got.inputs.shape == (2, 1, 4, 8, 8) and got.targets.shape == (2, 0, 4, 8, 8)
    assert got.trajectory.tolist() == [9, 0]
    torch.testing.assert_close(
        got.inputs[0, 0, 1], torch.from_numpy(read(tmp_path / "mine.nc")[9, 0, 0] / np.float32(0.391))
    )
    assert got.inputs[0, 0, 0].unique().item() == pytest.approx(0.2 / 0.31)
    assert other.facts.datasets[0].time_constant == 20.0
    assert other.facts.datasets[0].mean == first.facts.datasets[0].mean


def test_the_real_darcy_sample_trains_at_16_and_tests_at_32(shared):
    data = Fields(
        card="darcy",
        path=str(shared / "data" / "pde"),
        val_trajectories=0,
        test=EvaluationSet(part="test_32"),
    )

    train, test = data.train_set(), data.test_set()

    facts = data.facts.datasets[0]
    assert (len(train), len(test), data.val_set()) == (1000, 50, None)
    assert facts.out_mean == (pytest.approx(0.3863, abs=1e-4),)
    assert facts.out_std == (pytest.approx(0.3400, abs=1e-4),)
    assert train[0, 0].targets.shape == (1, 1, 1, 16, 16) and test[0, 0].targets.shape == (1, 1, 1, 32, 32)
    assert set(train[0, 0].inputs.unique().tolist()) == {0.0, 1.0} and data.facts.licences == ("MIT",)


def test_the_real_burgers_sample_has_its_own_test_file(shared):
    pde = shared / "data" / "pde"
    data = Fields(card="burgers", path=str(pde), parameters=True, val_trajectories=50)

    one, test = data.train_set()[0, 3], data.test_set()

    assert len(data.train_set()) == 350 * 17 * 18 // 2 and len(test) == 200
    assert one.inputs.shape == (1, 1, 1, 16) and one.parameters.tolist() == [[pytest.approx(0.01)]]
    assert test[0, 0].time[0, -1] == 1.0 and data.facts.inputs == ("u",)


def test_numbers_that_are_none_are_named_or_become_zero(tmp_path):
    path = velocity(tmp_path / "mine.nc", steps=3)
    with h5py.File(path, "r+") as file:
        file["velocity"][1, 2, 1, 0, 0] = np.nan

    with pytest.raises(UserError, match=r"mine\.nc has values of velocity_y .* trajectory 1, snapshot 2"):
        batch(Fields(path=str(path)))
    got = batch(Fields(path=str(path), prepare=FieldPreparation(missing="zero")), [(0, k) for k in range(12)])
    assert torch.isfinite(got.targets).all() and (got.targets[:, :, 1, 0, 0] == 0).any()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda: {"inputs": ["velocty_x"]}, "did you mean 'velocity_x'"),
        (
            lambda: {"prepare": FieldPreparation(resolution=3)},
            "8 x 8 points; each axis must be a whole multiple",
        ),
        (lambda: {"prepare": FieldPreparation(normalise="cards")}, "did you mean 'card'"),
        (lambda: {"windows": Pairs(max_steps=30)}, "reach snapshot 30, but trajectories have 21"),
        (
            lambda: {"windows": Pairs(max_steps=20, step=1), "prepare": FieldPreparation(time_constant=7.0)},
            "time constant is 7 snapshots",
        ),
        (lambda: {"trajectories": 99}, "data.trajectories is 99, but 8 of 10"),
        (lambda: {"card": "ns_sinse"}, "did you mean 'ns_sines'"),
        (lambda: {"card": "ett_h1"}, "domain timeseries"),
        (lambda: {"generate": Generation({"heat": 3})}, "only one of them"),
        (lambda: {"windows": Histories(), "frames": 30}, "too few"),
        (lambda: {"windows": Pairs(step=0)}, "data.windows.step is 0; it must be at least 1"),
        (lambda: {"windows": Pairs(step=0, max_steps=3)}, "data.windows.step is 0"),
        (lambda: {"windows": Pairs(max_steps=0)}, "data.windows.max_steps is 0"),
        (lambda: {"windows": Pairs(lead_steps=[-1])}, "data.windows.lead_steps is -1; it must be at least 0"),
        (lambda: {"windows": Pairs(fix_input_to=-1)}, "data.windows.fix_input_to is -1"),
        (lambda: {"windows": Histories(samples=0)}, "data.windows.samples is 0; it must be at least 1"),
        (lambda: {"windows": Histories(samples=-1)}, "data.windows.samples is -1"),
        (lambda: {"windows": Histories(strides=[0])}, "data.windows.strides is 0"),
        (lambda: {"val_trajectories": -1}, "data.val_trajectories is -1; it must be at least 0"),
        (lambda: {"test": EvaluationSet(starts="al")}, "did you mean 'all'"),
        (lambda: {"prepare": FieldPreparation(time_constant=0.0)}, "data.prepare.time_constant is 0.0"),
        (lambda: {"generate": Generation({"heat": 0})}, "data.generate.families.heat is 0"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, how, words):
    with pytest.raises(UserError, match=words) as raised:
        data = Fields(path=str(velocity(tmp_path / "mine.nc")), **how())
        data.train_set()

    assert "\n" not in str(raised.value)


def test_grids_of_two_sizes_in_a_mixture_are_refused_unless_made_equal(tmp_path):
    sources = [
        {"path": str(velocity(tmp_path / "NS-Sines.nc", size=8))},
        {"path": str(velocity(tmp_path / "NS-Gauss.nc", size=16))},
    ]

    with pytest.raises(UserError, match="grid of 16 x 16 points and NS-Sines one of 8 x 8"):
        Fields(mixture=SourceMixture(sources=sources)).train_set()
    assert Fields(
        prepare=FieldPreparation(resolution=8), mixture=SourceMixture(sources=sources)
    ).facts.space == (
        8,
        8,
    )


def test_data_that_are_not_there_say_what_to_type(tmp_path):
    with pytest.raises(UserError, match="type 'dfm data fetch darcy'"):
        Fields(card="darcy", path=str(tmp_path)).train_set()
    with pytest.raises(UserError, match="take them from camlab-ethz/ACE"):
        Fields(card="ace", path=str(tmp_path)).train_set()
    with pytest.raises(UserError, match="no data are named"):
        Fields()
    with pytest.raises(UserError, match="did you mean 'weight'"):
        Fields(mixture=SourceMixture(sources=[{"path": "x", "wieght": 1.0}]))


def test_cards_find_their_files_in_the_data_folder(tmp_path):
    velocity(tmp_path / "NS-Sines.nc")
    assert details_of(load_card("ns_sines")).places[0] == "NS-Sines.nc"
    assert Fields(card="ns_sines", path=str(tmp_path)).facts.sources == ("ns_sines",)


LIMITED = """
import resource, sys
from pathlib import Path
from apps.pde.data import Fields

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])

data = Fields(path=sys.argv[1], card="ns_sines", trajectories=4, batch_size=16)
data.setup()
before, limit = status("VmRSS"), (status("VmData") << 10) + (300 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
assert sum(len(one) for one in data.train_dataloader()) == 4 * 36
assert data.test_set()[0, 0].trajectory.item() == 90
print((status("VmHWM") - before) >> 10)
"""


@pytest.mark.slow  # a fresh interpreter imports torch and Lightning
def test_a_file_larger_than_the_memory_limit_is_read(tmp_path, repository):
    path = tmp_path / "NS-Sines.nc"
    with h5py.File(path, "w") as file:  # its zeros take no space on the disk
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((100, 21, 3, 256, 256))
        h5py.h5d.create(file.id, b"velocity", h5py.h5t.IEEE_F32LE, space, how)
    assert path.stat().st_size > 1_500 << 20

    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)],
        capture_output=True,
        text=True,
        cwd=repository,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 300  # MiB more than after the imports; the file has 1575
