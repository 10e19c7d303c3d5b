"""Overlapping tiles: every element covered, weights of one, constants kept, in one to three axes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.inference.tiles import blended, padded, ramps, starts, tiles


@st.composite
def axis(draw: st.DrawFn, longest: int = 90) -> tuple[int, int, int]:
    tile = draw(st.integers(1, 40))
    return draw(st.integers(1, longest)), tile, draw(st.integers(0, tile - 1))


@given(axis())
def test_weights_sum_to_exactly_one_everywhere(given_axis: tuple[int, int, int]) -> None:
    length, tile, overlap = given_axis
    total = np.zeros(length)
    for begin, weight in zip(starts(length, tile, overlap), ramps(length, tile, overlap), strict=True):
        assert (weight >= 0).all()
        total[begin : begin + len(weight)] += weight
    assert (total == 1).all()


@given(axis())
def test_neighbours_share_the_overlap_and_tiles_stay_inside(given_axis: tuple[int, int, int]) -> None:
    length, tile, overlap = given_axis
    begins = starts(length, tile, overlap)
    assert begins[0] == 0 and begins[-1] == max(length - tile, 0)
    assert all(0 < b - a <= tile - overlap for a, b in itertools.pairwise(begins))


@settings(max_examples=40, deadline=None)
@given(st.lists(axis(longest=24), min_size=1, max_size=3))
def test_every_element_of_any_grid_is_covered_with_weights_of_one(
    grid: list[tuple[int, int, int]],
) -> None:
    shape, tile, overlap = (tuple(numbers) for numbers in zip(*grid, strict=True))
    total = np.zeros(shape)
    for part in tiles(shape, tile, overlap):
        assert part.weights().shape == part.shape
        total[part.slices] += part.weights()
    assert (total == 1).all()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(axis(longest=20), min_size=1, max_size=3),
    st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False),
)
def test_a_constant_stays_the_same_bits_whatever_tile_and_overlap(
    grid: list[tuple[int, int, int]], value: float
) -> None:
    shape, tile, overlap = (tuple(numbers) for numbers in zip(*grid, strict=True))
    image = np.zeros((1, *shape), dtype=np.float32)
    result = blended(image, lambda x: np.full_like(x, value), tile=tile, overlap=overlap, axes=len(shape))
    assert result.shape == image.shape and (result == np.float32(value)).all()


@settings(max_examples=40, deadline=None)
@given(axis(longest=40), axis(longest=40), st.integers(0, 5))
def test_a_function_of_each_element_gives_what_it_gives_untiled(
    rows: tuple[int, int, int], columns: tuple[int, int, int], seed: int
) -> None:
    image = np.random.default_rng(seed).normal(size=(2, rows[0], columns[0])).astype(np.float32)
    tile, overlap = (rows[1], columns[1]), (rows[2], columns[2])
    result = blended(image, lambda x: np.concatenate([x, x[:1] * 2]), tile=tile, overlap=overlap)
    np.testing.assert_array_equal(result, np.concatenate([image, image[:1] * 2]))


def test_a_ramp_leads_smoothly_from_one_tile_to_the_next() -> None:
    first, second = ramps(24, 16, 8)
    np.testing.assert_array_equal(first[:8], 1)
    assert (np.diff(first[8:]) < 0).all() and (np.diff(second[:8]) > 0).all()
    np.testing.assert_allclose(first[8:], second[:8][::-1], atol=1 / 256)


def test_one_element_is_repeated_to_fill_a_tile() -> None:
    assert padded(np.full((3, 1, 1), 7.0), (4, 5)).tolist() == np.full((3, 4, 5), 7.0).tolist()


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "said"),
    [
        (0, 4, 0, "nothing to map"),
        (9, 0, 0, "nothing to map"),
        (9, 4, 4, "must be 0 to 3"),
        (9, 4, -1, "must be 0 to 3"),
    ],
)
def test_impossible_tiles_are_refused(length: int, tile: int, overlap: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        starts(length, tile, overlap)
