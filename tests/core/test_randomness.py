"""Keys of randomness: stable over versions and processes, and independent of one another."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.data.randomness import generator, key, uniforms

whole = st.integers(min_value=0, max_value=2**62)


@given(whole, whole, whole, st.text(max_size=8))
def test_key_fits_in_63_bits_and_takes_any_kind_of_integer(seed, epoch, index, purpose):
    value = key(seed, epoch, index, purpose)

    assert 0 <= value < 2**63
    assert value == key(np.int64(seed), epoch, np.int64(index), purpose)


def test_key_depends_on_every_argument():
    keys = [
        key(*arguments)
        for arguments in [
            (0, 0, 0, "crop"),
            (1, 0, 0, "crop"),
            (0, 1, 0, "crop"),
            (0, 0, 1, "crop"),
            (0, 0, 0, "mask"),
            (0, 0, "0", "crop"),
            (0, 1, 1, "crop"),
            (1, 1, 0, "crop"),
            (11, 0, 0, "crop"),
            (1, 10, 0, "crop"),
        ]
    ]

    assert len(set(keys)) == len(keys)


def test_key_is_the_same_in_another_process():
    code = "from core.data.randomness import key; print(key(7, 3, 11, 'crop'))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    assert int(result.stdout) == key(7, 3, 11, "crop")


def test_generators_of_one_key_agree_and_leave_the_global_one_alone():
    before = torch.get_rng_state()

    first, second = (torch.rand(4, generator=generator(1, 2, 3, "noise")) for _ in range(2))

    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_key_refuses_what_is_neither_number_nor_name():
    with pytest.raises(TypeError):
        key(0, 0, 1.5, "crop")


def test_uniforms_are_those_of_splitmix64():
    numbers = uniforms(torch.tensor([1234567, 0]), 3)

    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]  # seed 1234567
    assert numbers[0].tolist() == [(value >> 11) * 2.0**-53 for value in published]
    assert numbers[1, 0].item() == (0xE220A8397B1DCDAF >> 11) * 2.0**-53


def test_uniforms_of_a_row_depend_on_its_key_alone_and_are_even():
    keys = torch.tensor([key(0, 0, index, "view") for index in range(400)])

    numbers = uniforms(keys, 50)

    assert torch.equal(uniforms(keys[7:9], 20), numbers[7:9, :20])
    assert bool((numbers >= 0).all()) and bool((numbers < 1).all())
    assert abs(float(numbers.mean()) - 0.5) < 0.01
    assert abs(float(numbers.var()) - 1 / 12) < 0.002
    assert float(torch.corrcoef(numbers[:, :2].T)[0, 1].abs()) < 0.15
