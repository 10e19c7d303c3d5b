"""Which files are outputs of our commands, and that nothing else is replaced."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from core.inference.outputs import MARK, check_replaceable, maker, output

COMMAND = "dfm music predict"
pytestmark = pytest.mark.filterwarnings("ignore:.*no geotransform")


def save_hdf5(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs[MARK] = COMMAND


def save_zarr(path: Path) -> None:
    import zarr

    zarr.create_group(path, zarr_format=3, attributes={MARK: COMMAND})


def save_tiff(path: Path) -> None:
    import rasterio

    raster = rasterio.open(path, "w", driver="GTiff", width=4, height=4, count=1, dtype="uint8")
    with raster:
        raster.write(np.ones((1, 4, 4), np.uint8))
        raster.update_tags(**{MARK: COMMAND})


def save_png(path: Path) -> None:
    from matplotlib.figure import Figure

    Figure().savefig(path, format="png", metadata={MARK: COMMAND})


MARKED = {"a.nc": save_hdf5, "a.tif": save_tiff, "a.png": save_png}
BESIDE = {"a.csv": b"a,b\n1,2\n", "a.json": b"[]", "a.parquet": b"PAR1PAR1", "a.txt": b"", "a.gif": b"GIF89a"}


@pytest.mark.parametrize("name", MARKED)
def test_formats_with_a_place_hold_their_mark(tmp_path: Path, name: str) -> None:
    for _ in range(2):
        with output(tmp_path / name, COMMAND) as temporary:
            MARKED[name](temporary)

    assert maker(tmp_path / name) == COMMAND
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_zarr_group_holds_its_mark(tmp_path: Path) -> None:
    save_zarr(tmp_path / "a.zarr")

    assert check_replaceable(tmp_path / "a.zarr", COMMAND) == tmp_path / "a.zarr"


@pytest.mark.parametrize("name", BESIDE)
def test_other_formats_have_a_note_beside_them(tmp_path: Path, name: str) -> None:
    for content in (BESIDE[name], BESIDE[name] + b"\n"):
        with output(tmp_path / name, COMMAND) as temporary:
            temporary.write_bytes(content)

    assert maker(tmp_path / name) == COMMAND
    assert (tmp_path / name).read_bytes() == BESIDE[name] + b"\n"


def test_a_file_changed_by_its_user_is_his(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    with output(out, COMMAND) as temporary:
        temporary.write_text("1\n")
    out.write_text("2\n")

    with (
        pytest.raises(
            UserError, match=r"exists and is no output of `dfm music predict`; choose another name"
        ),
        output(out, COMMAND) as temporary,
    ):
        temporary.write_text("3\n")
    assert out.read_text() == "2\n"


def test_an_output_of_another_command_stays(tmp_path: Path) -> None:
    with output(tmp_path / "a.csv", "dfm pde predict") as temporary:
        temporary.write_text("1\n")

    with pytest.raises(UserError, match="no output of `dfm music predict`"):
        check_replaceable(tmp_path / "a.csv", COMMAND)


def test_a_file_that_names_another_maker_is_foreign(tmp_path: Path) -> None:
    note = {MARK: "Anna", "digests": []}
    (tmp_path / "a.csv").write_text("1\n")
    (tmp_path / ".a.csv.made_by").write_text(json.dumps(note))

    assert maker(tmp_path / "a.csv") == ""


def test_a_writer_that_fails_leaves_a_former_output_that_may_be_replaced(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    with output(out, COMMAND) as temporary:
        temporary.write_text("1\n")
    with pytest.raises(RuntimeError), output(out, COMMAND) as temporary:
        temporary.write_text("2\n")
        raise RuntimeError

    assert (out.read_text(), maker(out)) == ("1\n", COMMAND)


def test_either_file_is_ours_when_the_process_ends_before_the_rename(tmp_path, monkeypatch) -> None:
    import core.files

    out = tmp_path / "a.csv"
    with output(out, COMMAND) as temporary:
        temporary.write_text("1\n")
    rename = core.files.put_in_place
    monkeypatch.setattr(core.files, "put_in_place", lambda new, final: final == out or rename(new, final))
    with output(out, COMMAND) as temporary:
        temporary.write_text("2\n")

    assert (out.read_text(), maker(out)) == ("1\n", COMMAND)
