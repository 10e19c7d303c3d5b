"""Movies: as many frames as times, one scale throughout, bounded size, whole or not at all."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from core.figures.movies import rollout_frames, save_movie, write_movie

TIMES = np.linspace(0, 1, 6)


def fields(space=(24, 16), frames=6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(frames, *space))


def test_a_gif_has_a_frame_a_time_and_runs_for_ever(tmp_path):
    frames = rollout_frames(fields(), fields() * 0.9, times=TIMES, name="velocity_x")
    path = write_movie(tmp_path / "m.gif", frames, limit=1_000_000)

    with Image.open(path) as movie:
        assert movie.n_frames == 6 and movie.info["loop"] == 0
        assert movie.size == rollout_frames(fields(), fields(), times=TIMES)[0].shape[1::-1]


def test_the_same_values_have_the_same_colours_in_every_frame_and_panel():
    truth = fields(space=(8, 8))
    truth[3] = truth[0]

    frames = rollout_frames(truth, truth, times=TIMES, side=64)

    panel, beside = (slice(50, 114), slice(10, 106)), (slice(50, 114), slice(116, 212))
    np.testing.assert_array_equal(frames[0][panel], frames[3][panel])
    np.testing.assert_array_equal(frames[0][panel], frames[0][beside])


def test_first_point_of_both_axes_is_drawn_at_the_lower_left():
    truth = np.zeros((1, 8, 8))
    truth[0, 0, 0] = 1.0

    frame = rollout_frames(truth, times=[0.0], side=160)[0]

    panel = frame[50:210, 10:170].astype(int).sum(-1)
    assert panel[150, 5] != panel[5, 5] == panel[5, 150] == panel[150, 150]


@pytest.mark.parametrize("space", [(32,), (8, 8), (6, 6, 6)])
def test_one_to_three_axes_and_truth_alone_are_drawn(space):
    frames = rollout_frames(fields(space), times=TIMES)

    assert len(frames) == 6 and frames[0].dtype == np.uint8


def test_values_that_are_not_finite_are_grey():
    broken = fields()
    broken[2] = float("nan")

    frames = rollout_frames(fields(), broken, times=TIMES)

    assert (184, 193, 203) in {tuple(colour) for colour in frames[2].reshape(-1, 3)}


def test_long_rollouts_are_thinned_and_noise_is_held_to_the_limit(tmp_path):
    noise = fields((96, 96), 90)

    frames = rollout_frames(noise, noise[::-1], times=np.arange(90.0))
    path = write_movie(tmp_path / "m.gif", frames, limit=1_500_000)

    with Image.open(path) as movie:
        assert movie.n_frames == 60 and movie.size[0] < 700
    assert path.stat().st_size < 3_000_000


def test_an_mp4_is_written_with_even_sides(tmp_path):
    av = pytest.importorskip("av")
    frames = [np.full((33, 51, 3), shade, dtype=np.uint8) for shade in (0, 100, 200)]

    path = write_movie(tmp_path / "m.mp4", frames, rate=5)

    with av.open(str(path)) as movie:
        shown = [frame.to_ndarray(format="rgb24") for frame in movie.decode(video=0)]
    assert [frame.shape for frame in shown] == [(34, 52, 3)] * 3
    assert abs(int(shown[1][10, 10, 0]) - 100) < 5


def test_an_mp4_without_its_package_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)

    with pytest.raises(UserError, match=r"domainfm\[video\]"):
        write_movie(tmp_path / "m.mp4", [np.zeros((8, 8, 3), dtype=np.uint8)])
    assert list(tmp_path.iterdir()) == []


def test_other_suffixes_and_odd_frames_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"ends in \.gif or \.mp4"):
        write_movie(tmp_path / "m.avi", [np.zeros((8, 8, 3), dtype=np.uint8)])
    with pytest.raises(ValueError, match="at least one frame"):
        write_movie(tmp_path / "m.gif", [])
    with pytest.raises(ValueError, match="differ in size"):
        write_movie(tmp_path / "m.gif", [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)])
    with pytest.raises(ValueError, match="5 times"):
        rollout_frames(fields(), times=TIMES[:5])


def test_a_run_keeps_its_movie_among_its_figures_with_the_same_bytes(tmp_path):
    frames = rollout_frames(fields(), fields() * 0.5, times=TIMES)

    first = save_movie(frames, tmp_path / "a", "rollout/../u", 7)
    second = save_movie(frames, tmp_path / "b", "rollout/../u", 7)

    assert first == tmp_path / "a" / "figures" / "rollout-..-u-7.gif"
    assert first.read_bytes() == second.read_bytes()
