"""Tables with a row for each tile of scenes: CSV for answers, Parquet for vectors; no scene is in by half."""

from __future__ import annotations

import csv
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar

from apps.remote_sensing.predict.geotiff import unwritable, writing
from apps.remote_sensing.predict.mapping import SceneMap
from core.errors import UserError
from core.files import remove, replacing
from core.tables import harmless

if TYPE_CHECKING:
    from apps.remote_sensing.predict.fitting import Found
    from apps.remote_sensing.predict.scene import TileBatch
    from core.inference.jobs import Job

__all__ = ["COLUMNS", "CsvTable", "ParquetTable", "tile_rows", "write_tables"]

COLUMNS = ("scene", "row", "column", "height", "width", "longitude", "latitude", "date", "valid")
"""What every row says of its tile: the scene's name, first row and column and size in pixels, its centre in
degrees, the scene's dates, and the share of its pixels that have data."""

_TAG = b"domainfm"
_HINT = "--overwrite replaces a table made here; choose another name otherwise"


def tile_rows(batch: TileBatch, name: str, scene: Found) -> list[list[Any]]:
    """Return the values of `COLUMNS` for the tiles of a batch."""
    dates = ";".join(str(day) for day in scene.dates) if scene.dates else None
    rows = []
    for tile, valid, centre in zip(batch.tiles, batch.valid, batch.centres, strict=True):
        latitude, longitude = centre or (None, None)
        rows.append([name, *tile.start, *tile.shape, longitude, latitude, dates, float(valid.mean())])
    return rows


class _Table(ABC):
    """A table that appears when it is whole; what a scene that fails has written is taken out again.

    Attributes:
        existed: Whether the very table is there already.
    """

    existed = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._torn: UserError | None = None  # why half a scene stands in it

    @abstractmethod
    def _opened(self, path: Path) -> AbstractContextManager[Any]: ...

    @contextmanager
    def written(self) -> Iterator[Self]:
        """Write it within the block; it appears at the end, if no error leaves the block.

        Raises:
            UserError: If it cannot be written.
        """
        with writing(self.path), replacing(self.path) as temporary, self._opened(temporary):
            yield self
            if self._torn is not None:
                raise self._torn


class CsvTable(_Table):
    """A table of text.

    Args:
        path: Where it goes.
        columns: Behind `COLUMNS`.
        overwrite: Whether a table of ours at `path` is replaced.

    Raises:
        UserError: If a file is there that may not be replaced.
    """

    def __init__(self, path: Path, columns: Sequence[str], *, overwrite: bool = False) -> None:
        super().__init__(path)
        self.columns = (*COLUMNS, *columns)
        if os.path.lexists(path):
            if not _begins_with(path, COLUMNS):
                raise _foreign(path)
            if not overwrite:
                raise UserError(f"{path} exists already; {_HINT}")
        self._file: IO[str] | None = None

    @contextmanager
    def _opened(self, path: Path) -> Iterator[None]:
        with open(path, "w", newline="", encoding="utf-8") as self._file:
            csv.writer(self._file).writerow(map(harmless, self.columns))
            yield

    @contextmanager
    def scene(self) -> Iterator[None]:
        """Add the rows of a scene within the block; an error takes them out again.

        Raises:
            UserError: If it cannot be written.
        """
        assert self._file is not None
        if self._torn is not None:
            raise self._torn
        with writing(self.path):
            self._file.flush()
            before = self._file.tell()
            try:
                yield
                self._file.flush()
            except BaseException:
                try:
                    self._file.flush()
                    self._file.seek(before)
                    self._file.truncate()
                except OSError as error:
                    self._torn = unwritable(self.path, error)
                raise

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        """Add rows, values in the order of `columns`; None is an empty field."""
        assert self._file is not None
        shown = [[f"{one:.6g}" if isinstance(one, float) else one for one in row] for row in rows]
        for row, exact in zip(shown, rows, strict=True):
            for column in (5, 6):  # degrees, to 0.1 m
                row[column] = None if exact[column] is None else f"{exact[column]:.6f}"
        csv.writer(self._file).writerows([harmless(cell) for cell in row] for row in shown)


class ParquetTable(_Table):
    """A table with a vector in each row, as a list of float32.

    Args:
        path: Where it goes.
        facts: What its vectors depend on, kept in its metadata.
        overwrite: Whether a table of ours that was made otherwise is replaced.

    Raises:
        UserError: If pyarrow is missing, or a file is there that may not be replaced.
    """

    def __init__(self, path: Path, facts: dict[str, Any], *, overwrite: bool = False) -> None:
        try:
            import pyarrow as pa
        except ImportError as error:
            raise UserError(
                "Parquet needs pyarrow: pip install 'domainfm[remote-sensing]', or use --format geotiff"
            ) from error
        number, degrees = pa.int32(), pa.float64()
        kinds = (pa.string(), number, number, number, number, degrees, degrees, pa.string(), pa.float32())
        fields = [pa.field(name, kind) for name, kind in zip(COLUMNS, kinds, strict=True)]
        fields.append(pa.field("vector", pa.list_(pa.float32())))
        super().__init__(path)
        self.facts = json.loads(json.dumps(facts))
        self._schema = pa.schema(fields, metadata={_TAG: json.dumps(facts).encode()})
        self._whole: Any = None
        self._part: Any = None
        self.existed = self._existed(overwrite)

    @contextmanager
    def _opened(self, path: Path) -> Iterator[None]:
        import pyarrow.parquet as pq

        with pq.ParquetWriter(path, self._schema) as self._whole:
            yield

    @contextmanager
    def scene(self) -> Iterator[None]:
        """Add the rows of a scene within the block; after an error there are none of it.

        Raises:
            UserError: If it cannot be written.
        """
        import pyarrow.parquet as pq

        if self._torn is not None:
            raise self._torn
        part = self.path.with_name(f"{self.path.name}.scene.{os.getpid()}.tmp")
        try:
            with writing(self.path), pq.ParquetWriter(part, self._schema) as self._part:
                yield
            with pq.ParquetFile(part) as made:
                for group in range(made.num_row_groups):
                    self._whole.write_table(made.read_row_group(group))
        except OSError as error:
            self._torn = unwritable(self.path, error)
            raise self._torn from error
        finally:
            remove(part)

    def add(self, rows: Sequence[Sequence[Any]], vectors: Any) -> None:
        """Add rows, values in the order of `COLUMNS`, and their vectors `(B, D)` float32."""
        import pyarrow as pa

        given = [
            pa.array(list(values), field.type)
            for values, field in zip(zip(*rows, strict=True), self._schema, strict=False)
        ]
        offsets = pa.array(range(0, vectors.size + 1, vectors.shape[1]), pa.int32())
        given.append(pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1), pa.float32())))
        self._part.write_table(pa.Table.from_arrays(given, schema=self._schema))

    def _existed(self, overwrite: bool) -> bool:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not os.path.lexists(self.path):
            return False
        try:
            known = (pq.read_schema(self.path).metadata or {}).get(_TAG)
        except (OSError, pa.ArrowException):
            known = None
        if known is None:
            raise _foreign(self.path)
        if json.loads(known) == self.facts:
            return True
        if not overwrite:
            raise UserError(f"{self.path} holds vectors made otherwise; {_HINT}")
        return False


T = TypeVar("T", bound=_Table)


def write_tables(
    job: Job,
    suffix: str,
    make: Callable[[Path, Sequence[Path]], T],
    add: Callable[[Sequence[Path], T], SceneMap],
) -> int:
    """Write one table for all scenes of a job, or one for each into a folder, and return the exit code.

    Args:
        job: The scenes.
        suffix: Of tables.
        make: A table by its path and the files that go into it.
        add: Adds the files of a scene to it.
    """

    def alone(paths: Sequence[Path], out: Path) -> SceneMap:
        table = make(out, paths)
        if table.existed:
            return SceneMap(out, (0, 0), existed=True)
        with table.written():
            return add(paths, table)

    if job.out.suffix.lower() != suffix or job.out.is_dir():
        return job.run(job.outs((suffix,)), alone)
    job.check([job.out])
    table = make(job.out, job.files)
    if table.existed:
        print(job.out)
        return 0
    with table.written():
        return job.run_together(job.out, lambda paths, out: add(paths, table))


def _foreign(path: Path) -> UserError:
    return UserError(f"{path} exists and is no table made here; move it away or choose another name")


def _begins_with(path: Path, columns: Sequence[str]) -> bool:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return next(csv.reader(file), [])[: len(columns)] == list(columns)
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
