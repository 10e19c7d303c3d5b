"""Archives of weather fields: files of any layout as one set of variables, times and positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apps.weather.batch import Grid, Variables, level_name, level_text
from apps.weather.data.readers.names import in_order, unit_of
from apps.weather.data.readers.stored import StoredField, arrays_of
from core.data.hdf5 import OpenFiles
from core.errors import UserError, did_you_mean

__all__ = ["FILLS", "Archive"]

FILLS = (None, "mean", "nearest_level", "keep")
Key = tuple[str, str]  # group and name


class _Series:
    """Fields of one variable on the same levels, by time.

    Attributes:
        times: Sorted and unique `(T,)`.
        levels: In hPa; `(0,)` of a single level.
        doubles: Times that were stored more than once.
    """

    def __init__(self, fields: Sequence[StoredField]) -> None:
        self.fields, self.levels = fields, fields[0].levels or (0.0,)
        times = np.concatenate([each.times for each in fields])
        counts = [len(each.times) for each in fields]
        piece = np.repeat(np.arange(len(fields)), counts)
        index = np.concatenate([np.arange(count) for count in counts])
        rank = np.concatenate(
            [np.zeros(len(each.times), int) if each.rank is None else each.rank for each in fields]
        )
        order = np.lexsort((index, piece, rank, times))  # the last is the first to be sorted by
        self.times, first = np.unique(times[order], return_index=True)
        self._piece, self._index = piece[order][first], index[order][first]
        self.doubles = len(times) - len(self.times)

    def runs(
        self, times: NDArray[np.datetime64]
    ) -> list[tuple[StoredField, NDArray[np.int64], NDArray[np.int64]]]:
        """Return fields, indices of times in them, and the places of these in `times`; others are left out.

        A run is neighbouring times or times of one chunk: it is read at once.
        """
        at = np.minimum(np.searchsorted(self.times, times), len(self.times) - 1)
        here = np.flatnonzero(self.times[at] == times) if len(self.times) else np.array([], int)
        piece, index = self._piece[at[here]], self._index[at[here]]
        order = np.lexsort((index, piece))
        runs: list[tuple[StoredField, list[int], list[int]]] = []
        for place in order:
            stored, at_time = self.fields[piece[place]], int(index[place])
            if runs and runs[-1][0] is stored:
                last = runs[-1][1][-1]
                if at_time - last <= 1 or at_time // stored.chunk == last // stored.chunk:
                    runs[-1][1].append(at_time)
                    runs[-1][2].append(int(here[place]))
                    continue
            runs.append((stored, [at_time], [int(here[place])]))
        return [(stored, np.array(indices), np.array(places)) for stored, indices, places in runs]


@dataclass(frozen=True, eq=False)
class Archive:
    """Weather fields with times, physical values in SI, latitude falling and longitude rising from 0 to 360.

    Attributes:
        name: Of the file or folder.
        fields: What is stored, file by file.
        fill: How missing values are filled: by the field's `mean`, by the `nearest_level` that has one, not
            at all (`keep`: they stay NaN), or None: they are refused. Missing ocean waves always stay.
        members: Of the ensemble; 0 where there is none.
        notes: What was mended.
        licences: As the files state them.
        files: Opened.
        accumulated: Hours over which the sums run, by variable.
    """

    name: str
    fields: Sequence[StoredField]
    fill: str | None = None
    members: int = 0
    notes: Sequence[str] = ()
    licences: tuple[str, ...] = ()
    files: Sequence[Path] = ()
    accumulated: Mapping[str, float] = field(default_factory=dict)
    _open: OpenFiles = field(default_factory=lambda: OpenFiles(arrays_of))

    @cached_property
    def _series(self) -> dict[Key, list[_Series]]:
        groups: dict[Key, dict[tuple[float, ...], list[StoredField]]] = {}
        for each in self.fields:
            groups.setdefault(each.key, {}).setdefault(each.levels, []).append(each)
        return {key: [_Series(fields) for fields in kinds.values()] for key, kinds in groups.items()}

    def _levels(self, key: Key) -> list[float]:
        return sorted({level for series in self._series[key] for level in series.levels})

    def _named(self, name: str, group: str) -> tuple[Key, list[float]]:
        """Return the key of a variable, and all its levels; `z_500` names one level as a surface variable.

        Raises:
            UserError: If there is no such variable or level.
        """
        if (group, name) in self._series:
            return (group, name), self._levels((group, name))
        base, _, level = name.partition("_")
        if group == "surface" and ("level", base) in self._series:
            value = float(level.replace("_", ".")) if level.replace("_", "").isdigit() else -1.0
            if value in self._levels(("level", base)):
                return ("level", base), [value]
        raise UserError(
            f"{self.name} has no {'variable' if group == 'surface' else group} '{name}'"
            f"{did_you_mean(name, [each for _, each in self._series])} (it has {self._contents()})"
        )

    def _contents(self) -> str:
        words = [("static " if group == "static" else "") + name for group, name in self._series]
        return ", ".join(words)

    def _times(self, key: Key, levels: Sequence[float]) -> NDArray[np.datetime64]:
        """Return the times at which a variable is stored on all of the levels."""
        every = []
        for level in levels:
            parts = [series.times for series in self._series[key] if level in series.levels]
            every.append(np.unique(np.concatenate(parts)))
        return _common(every)

    @cached_property
    def variables(self) -> Variables:
        """All dynamic and static variables; those on levels with the levels, rising, that all of them have.

        Where they have none in common, as 500 hPa heights beside 850 hPa temperatures, each level is a
        surface variable, `z_500`; any level of any variable can be asked for in that way.
        """
        groups = {group: tuple(in_order(name for each, name in self._series if each == group))
                  for group in ("surface", "level", "static")}  # fmt: skip
        sets = [set(self._levels(("level", name))) for name in groups["level"]]
        levels = tuple(sorted(set.intersection(*sets))) if sets else ()
        if sets and not levels:
            single = [
                level_name(name, level) for name in groups["level"] for level in self._levels(("level", name))
            ]
            return Variables(surface=(*groups["surface"], *single), static=groups["static"])
        return Variables(groups["surface"], groups["level"], levels, groups["static"])

    def narrowed(self, variables: Variables) -> Archive:
        """Return the archive of some variables only: its times are those at which all of these are stored.

        Raises:
            UserError: If one is not here.
        """
        keys = {self._named(name, "surface")[0] for name in variables.surface}
        keys |= {self._named(name, "level")[0] for name in variables.atmospheric}
        keys |= {("static", name) for name in variables.static}
        return replace(self, fields=[each for each in self.fields if each.key in keys])

    @cached_property
    def times(self) -> NDArray[np.datetime64]:
        """Times at which all variables are stored, `(T,)` datetime64[s], sorted and unique."""
        named = self.variables
        levels = [self._times(*self._named(name, "surface")) for name in named.surface]
        levels += [self._times(("level", name), named.levels) for name in named.atmospheric]
        return _common(levels) if levels else np.array([], dtype="datetime64[s]")

    @cached_property
    def step(self) -> float:
        """Hours between states; 0 of a single one."""
        if len(self.times) < 2:
            return 0.0
        steps, counts = np.unique(np.diff(self.times).astype(np.int64), return_counts=True)
        return float(steps[counts.argmax()] / 3600)

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
        return {(f"static_{name}" if group == "static" else name): unit_of(name, levelled=group == "level")
                for group, name in reversed(self._series)}  # fmt: skip

    @property
    def grid(self) -> Grid:
        """Positions."""
        return self.fields[0].mesh.grid

    @cached_property
    def static(self) -> dict[str, NDArray[np.float32]]:
        """Static fields `(H, W)`; where several times are stored, of the first."""
        every = np.arange(self.grid.shape[0]), np.arange(self.grid.shape[1])
        fields = {}
        for (group, name), (series, *_) in self._series.items():
            if group == "static":
                stored = series.fields[0]
                out = stored.read(self._open[stored.path][stored.dataset], slice(0, 1), np.array([0]), *every)
                fields[name] = self._filled(out, stored, ("static", name), [0.0], every)[0, 0]
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
            raise UserError(
                f"{self.name} is an ensemble of {self.members} members; choose one, 0 to {self.members - 1}"
            )
        moments = np.asarray(times, dtype=np.int64).astype("datetime64[s]")
        where = np.arange(self.grid.shape[0])[rows], np.arange(self.grid.shape[1])[columns]
        shape = len(where[0]), len(where[1])
        surface = np.empty((len(moments), len(variables.surface), *shape), dtype=np.float32)
        levels = [float(level) for level in variables.levels]
        atmospheric = np.empty(
            (len(moments), len(variables.atmospheric), len(levels), *shape), dtype=np.float32
        )
        for at, name in enumerate(variables.surface):
            key, one = self._named(name, "surface")
            self._fill(surface[:, at : at + 1], key, one, moments, where, member or 0)
        for at, name in enumerate(variables.atmospheric):
            key, _ = self._named(name, "level")
            self._fill(atmospheric[:, at], key, levels, moments, where, member or 0)
        return surface, atmospheric

    def _fill(
        self,
        out: NDArray[np.float32],
        key: Key,
        levels: Sequence[float],
        times: NDArray[np.datetime64],
        where: tuple[NDArray[np.int64], NDArray[np.int64]],
        member: int,
        *,
        keep: bool = False,
    ) -> None:
        """Read one variable into `out` `(T, C, H, W)`."""
        wanted = np.array(levels)
        lacking = np.ones(out.shape[:2], dtype=bool)  # T C
        for series in self._series[key]:
            columns = np.flatnonzero(np.isin(wanted, series.levels) & lacking.any(axis=0))
            at = np.array([series.levels.index(level) for level in wanted[columns]])
            for stored, indices, places in series.runs(times) if len(columns) else []:
                array = self._open[stored.path][stored.dataset]
                picked = replace(stored, fixed={"n": member, **stored.fixed}) if stored.members else stored
                span = slice(int(indices[0]), int(indices[-1]) + 1)
                values = picked.read(array, span, at, *where)[indices - indices[0]]
                if not keep:
                    values = self._filled(values, stored, key, wanted[columns], where, times[places], member)
                out[np.ix_(places, columns)] = values
                lacking[np.ix_(places, columns)] = False
        if lacking.any():
            time, level = np.argwhere(lacking)[0]
            said = f"{wanted[level]:g} hPa at " if key[0] == "level" else ""
            raise UserError(
                f"{self.name} has no {key[1]} of {said}{times[time].astype('datetime64[m]')}; choose times "
                "that are stored"
            )

    def _filled(
        self,
        values: NDArray[np.float32],
        stored: StoredField,
        key: Key,
        levels: Sequence[float],
        where: tuple[NDArray[np.int64], NDArray[np.int64]],
        times: NDArray[np.datetime64] | None = None,
        member: int = 0,
    ) -> NDArray[np.float32]:
        """Return the values `(T, C, H, W)` with missing ones filled.

        Raises:
            UserError: If there are such and nothing to fill them with: naming file, variable and time.
        """
        if np.isfinite(values.mean(dtype=np.float64)) or self.fill == "keep" or stored.row.kind == "wave":
            return values
        gone = np.isnan(values)
        fill = self.fill
        if fill == "nearest_level" and key[0] == "level" and times is not None:
            every = np.array(self._levels(key))
            column = np.empty((len(times), len(every), *values.shape[2:]), dtype=np.float32)
            self._fill(column, key, every.tolist(), times, where, member, keep=True)
            for at, level in enumerate(levels):
                for other in np.argsort(np.abs(np.log(every) - np.log(level))):
                    values[:, at] = np.where(np.isnan(values[:, at]), column[:, other], values[:, at])
        elif fill == "mean" and not gone.all(axis=(-2, -1)).any():
            values = np.where(
                gone, np.nanmean(values, axis=(-2, -1), keepdims=True, dtype=np.float64), values
            )
            values = values.astype(np.float32)
        bad = np.isnan(values)
        if not bad.any():
            return values
        at, level = np.argwhere(bad)[0][:2]
        time = "" if times is None else f" at {times[at].astype('datetime64[m]')}"
        hpa = f"_{level_text(levels[level])}" if key[0] == "level" else ""
        advice = (
            "choose another region or other times"
            if fill
            else "fill them by data.fill (mean, nearest_level, keep)"
        )
        raise UserError(
            f"{stored.path}: {key[1]}{hpa}{time} has {int(bad[at, level].sum())} missing values (NaN) of "
            f"{bad[at, level].size}; {advice}"
        )


def _common(parts: Sequence[NDArray[np.datetime64]]) -> NDArray[np.datetime64]:
    common = parts[0]
    for other in parts[1:]:
        common = np.intersect1d(common, other, assume_unique=True)
    return common
