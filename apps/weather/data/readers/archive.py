"""Archives of weather fields: files of any layout as one set of variables, times and positions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.weather.batch import Grid, Variables, level_name, level_text
from apps.weather.data.readers.names import in_order, unit_of
from apps.weather.data.readers.stored import ReadWindow, StoredField, arrays_of
from core.data.hdf5 import OpenFiles
from core.errors import UserError, did_you_mean

__all__ = ["Archive"]

Key = tuple[str, str]  # group (surface, level, static) and name


class _Series:
    """Fields of one variable on the same levels, by time: `times` sorted and unique, `doubles` left out."""

    def __init__(self, fields: Sequence[StoredField]) -> None:
        self.fields, self.levels = fields, fields[0].levels or (0.0,)
        times = np.concatenate([each.times for each in fields])
        counts = [len(each.times) for each in fields]
        piece = np.repeat(np.arange(len(fields)), counts)
        index = np.concatenate([np.arange(count) for count in counts])
        order = np.lexsort((index, piece, np.repeat([each.rank for each in fields], counts), times))
        self.times, first = np.unique(times[order], return_index=True)
        self._piece, self._index = piece[order][first], index[order][first]
        self.doubles = len(times) - len(self.times)

    def runs(self, times: NDArray[np.datetime64]) -> list[tuple[StoredField, list[int], list[int]]]:
        """Return fields, indices of times in them, and where these are in `times`; others are left out.

        A run is of neighbouring times or of one chunk: it is read at once.
        """
        at = np.searchsorted(self.times, times).clip(max=max(len(self.times) - 1, 0))
        here = np.flatnonzero(self.times[at] == times) if len(self.times) else np.array([], dtype=int)
        piece, index = self._piece[at[here]], self._index[at[here]]
        runs: list[tuple[StoredField, list[int], list[int]]] = []
        for each in np.lexsort((index, piece)):
            stored, now = self.fields[piece[each]], int(index[each])
            last = runs[-1][1][-1] if runs and runs[-1][0] is stored else -2
            if last < 0 or (now - last > 1 and now // stored.chunk != last // stored.chunk):
                runs.append((stored, [], []))
            runs[-1][1].append(now)
            runs[-1][2].append(int(here[each]))
        return runs


@dataclass(frozen=True, eq=False)
class Archive:
    """Weather fields with times, in SI, latitude falling and longitude rising from 0 to below 360.

    Attributes:
        name: Of the file or folder.
        fields: What is stored, file by file.
        fill: How missing values are filled: by the field's `mean`, by the `nearest_level` that has one, not
            at all (`keep`: they stay NaN), or None: they are refused. Missing ocean waves always stay.
        members: Of the ensemble; 0 where there is none.
        notes: What was mended.
        licences: As the files state them.
        files: Opened.
        arrays: The files of this process.
    """

    name: str
    fields: Sequence[StoredField]
    fill: str | None = None
    members: int = 0
    notes: Sequence[str] = ()
    licences: tuple[str, ...] = ()
    files: Sequence[Path] = ()
    arrays: OpenFiles = field(default_factory=lambda: OpenFiles(arrays_of, most=128))

    @property
    def parts(self) -> dict[str, Any]:
        """Attributes by name."""
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}

    @cached_property
    def series(self) -> dict[Key, list[_Series]]:
        """Fields by group and name, in order of time."""
        groups: dict[Key, dict[tuple[float, ...], list[StoredField]]] = {}
        for each in self.fields:
            groups.setdefault(each.key, {}).setdefault(each.levels, []).append(each)
        return {key: [_Series(fields) for fields in kinds.values()] for key, kinds in groups.items()}

    @cached_property
    def variables(self) -> Variables:
        """All variables; those on levels with the levels, rising, that all of them have.

        Where they have none in common, as 500 hPa heights beside 850 hPa temperatures, each level is a
        surface variable, `z_500`; any level of any variable can be asked for in that way.
        """
        surface, deep, static = (
            in_order(name for group, name in self.series if group == kind)
            for kind in ("surface", "level", "static")
        )
        stored = {name: self._levels(("level", name)) for name in deep}
        levels = sorted(set.intersection(*map(set, stored.values()))) if stored else []
        if stored and not levels:
            surface += [level_name(name, level) for name in deep for level in stored[name]]
            deep = []
        return Variables(tuple(surface), tuple(deep), tuple(levels), tuple(static))

    def narrowed(self, variables: Variables) -> Archive:
        """Return the archive of some variables: its times are those at which all of these are stored.

        Raises:
            UserError: If one is not here.
        """
        keys = {key for key, _ in self._asked(variables)} | {("static", name) for name in variables.static}
        return replace(self, fields=[each for each in self.fields if each.key in keys])

    @cached_property
    def times(self) -> NDArray[np.datetime64]:
        """Times at which all variables are stored, `(T,)` datetime64[s], sorted and unique."""
        parts = [
            np.unique(np.concatenate([each.times for each in self.series[key] if level in each.levels]))
            for key, levels in self._asked(self.variables)
            for level in levels
        ]
        return reduce(np.intersect1d, parts) if parts else np.array([], dtype="datetime64[s]")

    @cached_property
    def step(self) -> float:
        """Hours between states; 0 of a single one."""
        steps, counts = np.unique(np.diff(self.times).astype(np.int64), return_counts=True)
        return float(steps[counts.argmax()] / 3600) if len(steps) else 0.0

    @cached_property
    def gaps(self) -> NDArray[np.datetime64]:
        """Times between the first and the last that are missing from the regular step."""
        if len(self.times) < 2:
            return self.times[:0]
        regular = np.arange(self.times[0], self.times[-1], np.timedelta64(round(self.step * 3600), "s"))
        return regular[~np.isin(regular, self.times)]

    @cached_property
    def units(self) -> dict[str, str]:
        """SI units by name; `static_z` of static fields."""
        prefix = {"static": "static_"}
        return {
            prefix.get(group, "") + name: unit_of(name, levelled=group == "level")
            for group, name in self.series
        }

    @cached_property
    def accumulated(self) -> dict[str, float]:
        """Hours over which tp, e and other sums run in each record."""
        return {each.row.name: each.row.hours or 1.0 for each in self.fields if each.row.kind == "sum"}

    @property
    def grid(self) -> Grid:
        """Positions."""
        return self.fields[0].place.grid

    @cached_property
    def static(self) -> dict[str, NDArray[np.float32]]:
        """Static fields `(H, W)`.

        Raises:
            UserError: If one changes in time, as a geopotential whose level is not said.
        """
        window, fields = ReadWindow(*map(np.arange, self.grid.shape)), {}
        for (group, name), (series, *_) in self.series.items():
            if group == "static":
                stored = series.fields[0]
                first, last = (
                    self._filled(self._read(stored, [at], [0], window, 0), stored, at, [0.0], window)[0, 0]
                    for at in (0, max(len(stored.times) - 1, 0))
                )
                if np.nanmax(np.abs(first - last)) > 1e-3 * np.nanmax(np.abs(first - first.mean())):
                    raise UserError(
                        f"{stored.path}: {stored.dataset} changes in time, so it is not static; say its name "
                        f"by data.variables.names, as in {{{stored.dataset}: {name}_500}}"
                    )
                fields[name] = first
        return fields

    def read(
        self,
        times: Sequence[int],
        variables: Variables,
        rows: NDArray[np.int64] | slice = slice(None),
        columns: NDArray[np.int64] | slice = slice(None),
        *,
        member: int | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return surface `(T, VS, H, W)` and atmospheric `(T, VA, C, H, W)` values in SI.

        Args:
            times: Seconds since 1970-01-01 UTC.
            variables: Which; the static ones are not looked at.
            rows: Of the grid.
            columns: Of the grid; they may run across 0 degrees.
            member: Of an ensemble.

        Raises:
            UserError: If something is not stored, cannot be read, or is NaN and not filled.
        """
        if self.members > 1 and member is None:
            raise UserError(f"{self.name} is an ensemble; choose one of its members, 0 to {self.members - 1}")
        moments = np.asarray(times, dtype=np.int64).astype("datetime64[s]")
        window = ReadWindow(np.arange(self.grid.shape[0])[rows], np.arange(self.grid.shape[1])[columns])
        shape, deep = (
            (len(window.rows), len(window.columns)),
            (len(variables.atmospheric), len(variables.levels)),
        )
        surface = np.empty((len(moments), len(variables.surface), *shape), dtype=np.float32)
        atmospheric = np.empty((len(moments), *deep, *shape), dtype=np.float32)
        slots = [surface[:, at, None] for at in range(surface.shape[1])]
        slots += [atmospheric[:, at] for at in range(deep[0])]
        for out, (key, levels) in zip(slots, self._asked(variables), strict=True):
            self._fill(out, key, levels, moments, window, member or 0)
        return surface, atmospheric

    def _levels(self, key: Key) -> list[float]:
        return self._every_level.get(key, [])

    @cached_property
    def _every_level(self) -> dict[Key, list[float]]:
        return {key: sorted({x for each in kinds for x in each.levels}) for key, kinds in self.series.items()}

    def _asked(self, variables: Variables) -> list[tuple[Key, list[float]]]:
        """Return key and levels of each surface and atmospheric variable; `z_500` is one level of `z`.

        Raises:
            UserError: If there is no such variable or level.
        """
        deep = [round(float(level), 3) for level in variables.levels]
        asked: list[tuple[Key, list[float]]] = [(("level", name), deep) for name in variables.atmospheric]
        for at, name in enumerate(variables.surface):
            base, _, text = name.partition("_")
            single = [level for level in self._levels(("level", base)) if level_text(level) == text]
            own = ("surface", name) in self.series or not single
            asked.insert(at, (("surface", name), [0.0]) if own else (("level", base), single))
        for key, levels in asked:
            if key not in self.series:
                stored = [f"{group} {name}" if group == "static" else name for group, name in self.series]
                raise UserError(
                    f"{self.name} has no variable '{key[1]}'{' on levels' if key[0] == 'level' else ''}"
                    f"{did_you_mean(key[1], stored)} (it has {', '.join(stored)})"
                )
            if lacking := set(levels) - set(self._levels(key)):
                text = ", ".join(map(level_text, self._levels(key)))
                raise UserError(
                    f"{self.name} has no {key[1]} on {level_text(min(lacking))} hPa (it has {text})"
                )
        return asked

    def _read(
        self, stored: StoredField, indices: list[int], levels: list[int], window: ReadWindow, member: int
    ) -> NDArray[np.float32]:
        array = self.arrays[stored.path][stored.dataset] if stored.array is None else stored.array
        picked = replace(stored, fixed={"n": member, **stored.fixed}) if stored.members else stored
        span = slice(indices[0], indices[-1] + 1)
        values = picked.read(array, span, np.array(levels), window)
        return values if len(values) == len(indices) else values[[at - indices[0] for at in indices]]

    def _fill(
        self, out: NDArray[np.float32], key: Key, levels: list[float], times: NDArray[np.datetime64],
        window: ReadWindow, member: int, *, keep: bool = False,
    ) -> None:  # fmt: skip
        """Read one variable into `out` `(T, C, H, W)`."""
        lacking = np.ones(out.shape[:2], dtype=bool)  # T C
        for series in self.series[key]:
            columns = [at for at, x in enumerate(levels) if x in series.levels and lacking[:, at].any()]
            mine = [levels[at] for at in columns]
            layers = [series.levels.index(level) for level in mine]
            for stored, indices, slots in series.runs(times) if columns else []:
                where, first = np.ix_(slots, columns), slots[0]
                whole = len(columns) == len(levels) and slots == list(range(first, first + len(slots)))
                block = out[first : first + len(slots)] if whole else np.empty_like(out[where])
                block[:] = self._read(stored, indices, layers, window, member)
                if not keep and not np.isfinite(block.sum()):
                    for at, part in zip(indices, block, strict=True):
                        part[:] = self._filled(part[None], stored, at, mine, window, member)[0]
                if not whole:
                    out[where] = block
                lacking[where] = False
        if lacking.any():
            time, level = np.argwhere(lacking)[0]
            name = level_name(key[1], levels[level]) if key[0] == "level" else key[1]
            raise UserError(
                f"{self.name} has no {name} at {times[time].astype('datetime64[m]')}; choose another time"
            )

    def _filled(
        self, values: NDArray[np.float32], stored: StoredField, index: int, levels: list[float],
        window: ReadWindow, member: int = 0,
    ) -> NDArray[np.float32]:  # fmt: skip
        """Return the values `(1, C, H, W)` of one time with missing ones filled.

        Raises:
            UserError: If there are such and nothing to fill them with: naming file, variable and time.
        """
        if self.fill == "keep" or stored.row.kind == "wave" or not np.isnan(values).any():
            return values
        if self.fill == "nearest_level" and stored.levels:
            every = self._levels(stored.key)
            column = np.empty((1, len(every), *values.shape[2:]), dtype=np.float32)
            self._fill(column, stored.key, every, stored.times[index : index + 1], window, member, keep=True)
            for at, level in enumerate(levels):
                for other in np.argsort(np.abs(np.log(every) - np.log(level))):
                    values[:, at] = np.where(np.isnan(values[:, at]), column[:, other], values[:, at])
        elif self.fill == "mean" and not np.isnan(values).all(axis=(-2, -1)).any():
            mean = np.nanmean(values, axis=(-2, -1), keepdims=True, dtype=np.float64).astype(np.float32)
            values = np.where(np.isnan(values), mean, values)
        counts = np.isnan(values).sum(axis=(0, 2, 3))
        if counts.any():
            text = f" on {levels[counts.argmax()]:g} hPa" if stored.levels else ""
            advice = (
                "choose another region or times" if self.fill else "see data.fill (mean, nearest_level, keep)"
            )
            raise UserError(
                f"{stored.at(index)}{text} has {counts.max()} missing values (NaN) of {values[0, 0].size}; "
                f"{advice}"
            )
        return values
