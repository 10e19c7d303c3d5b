"""Seconds and peak memory of `dfm weather score` for few and many starts, each in a process of its own.

Run: `python tests/benchmarks/weather_score.py [--starts 200] [--levels 3]`. Truth, forecasts of 10 leads and
a climatology of 64 x 32 points, four surface variables and five on each level, are written to a temporary
folder. "Beyond" is what a process holds at its peak above what it held after a first run of two starts,
which pays for imports and the libraries' own memory.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import machine

SURFACE = ("2m_temperature", "mean_sea_level_pressure", "10m_u_component_of_wind", "10m_v_component_of_wind")
LEVELLED = ("geopotential", "temperature", "specific_humidity", "u_component_of_wind", "v_component_of_wind")
UNITS = ("K", "Pa", "m s**-1", "m s**-1", "m**2 s**-2", "K", "kg kg**-1", "m s**-1", "m s**-1")
ROWS, COLUMNS, LEADS = 32, 64, 10
_CHILD = "--child"


def write_stores(folder: Path, starts: int, levels: int) -> None:
    """Write truth every 12 hours, forecasts of 1 to 10 days, and a climatology of two hours a day."""
    import zarr

    rng = np.random.default_rng(0)
    axes = {"level": 100.0 * (1 + np.arange(levels)), "latitude": (np.arange(ROWS) + 0.5) * 180 / ROWS - 90}
    axes |= {"longitude": np.arange(COLUMNS) * 360 / COLUMNS}
    hours = {"units": "hours since 2020-01-01"}
    times = np.arange(starts + 2 * LEADS) * 12
    leads = 24 * (1 + np.arange(LEADS)), {"units": "hours"}
    kinds = {
        "truth": {"time": (times, hours)},
        "forecast": {"time": (times[:starts], hours), "prediction_timedelta": leads},
        "clim": {"hour": (np.array([0, 12]), {}), "dayofyear": (np.arange(1, 367), {})},
    }
    for kind, moments in kinds.items():
        group = zarr.create_group(folder / f"{kind}.zarr", zarr_format=2)
        every = {**moments, **{name: (values, {}) for name, values in axes.items()}}
        for name, (values, attributes) in every.items():
            array = group.create_array(name, data=values)
            array.attrs.update({"_ARRAY_DIMENSIONS": [name], **attributes})
        for name, unit in zip((*SURFACE, *LEVELLED), UNITS, strict=True):
            dims = [*moments, *(("level",) if name in LEVELLED else ()), "latitude", "longitude"]
            shape = tuple(len(every[dim][0]) for dim in dims)
            split = 1 if kind == "truth" else 2 if kind == "clim" else 1
            array = group.create_array(name, shape=shape, dtype="f4", chunks=(*[1] * split, *shape[split:]))
            array.attrs.update({"_ARRAY_DIMENSIONS": dims, "units": unit})
            for row in range(shape[0]):
                array[row] = rng.normal(size=shape[1:]).astype("f4")
        zarr.consolidate_metadata(group.store)


def measure(folder: str, starts: int) -> dict[str, float]:
    """Return seconds and bytes of one scoring; runs in the child."""
    from core.cli import main

    def score(count: int) -> tuple[float, float]:
        last = str(np.datetime64("2020-01-01T00") + 12 * (count - 1) * np.timedelta64(1, "h"))
        paths = [f"{folder}/{kind}.zarr" for kind in ("forecast", "truth", "clim")]
        words = [
            word
            for pair in zip(("--forecast", "--truth", "--climatology"), paths, strict=True)
            for word in pair
        ]
        begin, used = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            code = main(
                [
                    "weather",
                    "score",
                    *words,
                    "--starts",
                    "2020-01-01",
                    last,
                    "--out",
                    f"{folder}/{count}",
                    "--no_figure",
                ]
            )
        assert code == 0
        return time.perf_counter() - begin, time.process_time() - used

    score(2)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident("VmRSS")
    seconds, processor = score(starts)
    beyond = _resident("VmHWM") - before
    return {"seconds": seconds, "processor": processor, "before": before, "beyond": beyond}


def _resident(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1]) * 1024


def main() -> None:
    """Print a line for each number of starts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=200)
    parser.add_argument("--levels", type=int, default=3)
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        write_stores(Path(folder), options.starts, options.levels)
        for starts in (options.starts // 10, options.starts):
            command = [sys.executable, __file__, _CHILD, folder, str(starts)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            numbers = json.loads(out.splitlines()[-1])
            size = f"{starts} starts x {LEADS} leads x {4 + 5 * options.levels} fields x {COLUMNS} x {ROWS}"
            print(
                f"{size}: {numbers['seconds']:.1f} s ({numbers['processor']:.1f} s of a core), "
                f"{numbers['beyond'] / 2**20:.0f} MiB beyond {numbers['before'] / 2**20:.0f} MiB"
            )


if __name__ == "__main__":
    if _CHILD in sys.argv:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
    else:
        main()
