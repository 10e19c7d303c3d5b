"""Open HDF5 files: one sentence for what is none, few at a time, none shared with a forked process."""

from __future__ import annotations

import fcntl
import multiprocessing
import pickle
import shutil
from pathlib import Path

import h5py
import pytest

from core.data.hdf5 import OpenFiles, is_hdf5, open_hdf5
from core.errors import UserError


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Three files that hold their number."""
    paths = [str(tmp_path / f"{number}.h5") for number in range(3)]
    for number, path in enumerate(paths):
        with h5py.File(path, "w") as file:
            file["number"] = number
    return paths


def test_the_longest_unused_file_is_closed(files):
    opened = OpenFiles(most=2)

    first, second = (opened[path] for path in files[:2])
    assert opened[files[0]] is first and int(opened[files[2]]["number"][()]) == 2

    assert first and not second  # a closed file of h5py is false
    opened.close()
    assert not first and int(opened[files[0]]["number"][()]) == 0


def test_a_pickled_one_holds_nothing_open(files):
    opened = OpenFiles()
    first = opened[files[0]]

    again = pickle.loads(pickle.dumps(opened))

    assert again[files[0]] is not first and int(again[files[0]]["number"][()]) == 0


def test_a_forked_process_opens_its_own(files):
    opened = OpenFiles()
    first = opened[files[0]]
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    child = context.Process(target=lambda: queue.put(opened[files[0]] is first))
    child.start()
    child.join()

    assert queue.get() is False and opened[files[0]] is first


def test_what_is_no_hdf5_file_is_one_sentence(tmp_path):
    path = tmp_path / "text.h5"
    path.write_text("nothing of the kind")

    assert not is_hdf5(path)
    with pytest.raises(UserError, match="is no HDF5 file or is damaged"):
        open_hdf5(str(path))
    with pytest.raises(UserError, match="does not exist"):
        open_hdf5(str(tmp_path / "none.h5"))


@pytest.mark.parametrize("kind", ["an external link", "external storage", "a virtual data set"])
def test_values_of_other_files_are_not_read(tmp_path, files, kind):
    path = tmp_path / "stranger.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("deep/er")
        if kind == "an external link":
            group["u"] = h5py.ExternalLink("0.h5", "number")
        elif kind == "external storage":
            group.create_dataset("u", (2,), dtype="u1", external=[(files[0], 0, 2)])
        else:
            layout = h5py.VirtualLayout((1,), "i8")
            layout[0] = h5py.VirtualSource("0.h5", "number", ())
            group.create_virtual_dataset("u", layout)

    with pytest.raises(UserError, match=rf"takes 'deep/er/u' from another file by {kind} \(.*0\.h5\)"):
        open_hdf5(str(path))


def test_links_and_views_within_a_file_are_followed_round_circles_too(tmp_path):
    path = tmp_path / "own.h5"
    with h5py.File(path, "w", userblock_size=512) as file:  # as MATLAB's files begin
        file["a"] = [1.0, 2.0]
        layout = h5py.VirtualLayout((2,), "f8")
        layout[:] = h5py.VirtualSource(".", "a", (2,))
        file.create_virtual_dataset("view", layout)
        file["soft"], file["circle"], file["none"] = (h5py.SoftLink(to) for to in ("/a", "/", "/missing"))
        group = file.create_group("g")
        group["again"] = group

    assert is_hdf5(path)
    assert open_hdf5(str(path))["view"][:].tolist() == [1.0, 2.0]


def test_a_file_that_a_program_writes_is_held_not_damaged(files):
    with open(files[0]) as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"0\.h5 is held by a program that is writing it"):
            open_hdf5(files[0])

    assert open_hdf5(files[0])["number"][()] == 0


def test_a_file_that_a_program_left_open_is_held_not_damaged(tmp_path):
    with h5py.File(tmp_path / "open.h5", "w", libver="latest") as file:
        file["number"] = 1
        file.flush()
        shutil.copy(tmp_path / "open.h5", tmp_path / "left.h5")

    with pytest.raises(UserError, match=r"is held .*h5clear -s .*left.h5"):
        open_hdf5(str(tmp_path / "left.h5"))
