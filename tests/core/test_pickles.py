"""Pickles of arrays, read without running what they name."""

from __future__ import annotations

import datetime
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from core.data.pickles import read_array_pickle
from core.errors import UserError


class _Harmful:
    def __reduce__(self):
        return os.system, ("touch harmed",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_come_back_as_they_were_pickled(tmp_path: Path, protocol: int) -> None:
    content = {
        "lsm": np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4),
        "slt": np.asfortranarray(np.arange(12).reshape(3, 4)),
        "metadata": {"time": (datetime.datetime(2022, 5, 11, 6),), "levels": [50, np.float64(700.5)]},
    }
    (tmp_path / "fields.pickle").write_bytes(pickle.dumps(content, protocol=protocol))

    fields = read_array_pickle(tmp_path / "fields.pickle")

    np.testing.assert_array_equal(fields["lsm"], content["lsm"])
    np.testing.assert_array_equal(fields["slt"], content["slt"])
    assert fields["lsm"].dtype == np.float32
    assert fields["metadata"] == content["metadata"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"z": _Harmful()}, r"holds the Python object \w+.system, and only dicts of numeric arrays"),
        ({"z": np.array([_Harmful()], dtype=object)}, "holds values of the dtype 'O8'"),
        ({"z": np.zeros(2, dtype=[("a", "f4")])}, "holds values of the dtype 'V4'"),
        ([np.zeros(2)], "holds a list"),
    ],
)
def test_other_objects_are_refused_and_not_run(tmp_path, monkeypatch, content, sentence) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fields.pickle").write_bytes(pickle.dumps(content))

    with pytest.raises(UserError, match=sentence):
        read_array_pickle("fields.pickle")

    assert not Path("harmed").exists()


@pytest.mark.parametrize("damage", [b"", b"\x80\x04}", b"<!doctype html>"])
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "fields.pickle").write_bytes(damage)

    with pytest.raises(UserError, match="is damaged or no pickle of arrays; fetch it anew"):
        read_array_pickle(tmp_path / "fields.pickle")
