"""Peak memory of training on a long Parquet series, each way in a process of its own.

Run: `python tests/benchmarks/series_memory.py [--rows 10000000]`. A file of float64 columns and a time
column is written to a temporary folder. "Beyond" is what a process holds at its peak above what it held after
imports and, where a DataFrame is given, above the frame; both are compared with the size of the loaded frame.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

COLUMNS = 4
_CHILD = "--child"


def write_parquet(path: Path, rows: int) -> None:
    """Write random walks of one row a minute, a row group at a time."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    names = [f"channel{number}" for number in range(COLUMNS)]
    fields = [("time", pa.timestamp("us")), *((name, pa.float64()) for name in names)]
    with pq.ParquetWriter(path, pa.schema(fields), compression="zstd") as writer:
        for first in range(0, rows, 1 << 20):
            count = min(1 << 20, rows - first)
            time = np.datetime64("2000-01-01", "us") + np.arange(first, first + count) * np.timedelta64(
                60_000_000, "us"
            )
            columns = {name: rng.normal(size=count).cumsum().round(3) for name in names}
            writer.write_table(pa.table({"time": time, **columns}))


def measure(path: str, way: str) -> dict[str, float]:
    """Return peak memory in bytes of building windows and drawing batches ; runs in the child."""
    import pandas as pd
    import pyarrow.parquet  # noqa: F401  (part of the imports, not of the work)
    import torch

    from apps.timeseries.data.module import Series

    torch.set_num_threads(1)
    sizes = {"context": 512, "horizon": 96, "batch_size": 64}
    # the libraries' own memory (first use of a loader and the like) is the same for any file: paid before
    small = {"time": pd.date_range("2000-01-01", periods=2000, freq="h"), "value": range(1, 2001)}
    next(iter(Series.from_frame(pd.DataFrame(small), **sizes).train_dataloader()))
    size = 0
    frame = None
    if way == "frame":
        frame = pd.read_parquet(path)
        size = int(frame.memory_usage(index=False).sum())
    before = _resident()
    data = Series(path=path, **sizes) if frame is None else Series.from_frame(frame, **sizes)
    data.setup("fit")
    for number, _ in enumerate(data.train_dataloader()):
        if number == 200:
            break
    for number, _ in enumerate(data.val_dataloader()):
        if number == 20:
            break
    peak = _resident("VmHWM")  # `ru_maxrss` would begin with the parent's
    return {
        "frame": size,
        "before": before,
        "peak": peak,
        "after": _resident(),
        "windows": len(data.train_set()),
    }


def _resident(field: str = "VmRSS") -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1]) * 1024


def compare(rows: int) -> dict[str, dict[str, float]]:
    """Write the file, run both ways and return the figures in MiB and as shares of the frame."""
    size = rows * 8 * (COLUMNS + 1)
    result: dict[str, dict[str, float]] = {"frame": {"MiB": size / 2**20}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.parquet"
        subprocess.run([sys.executable, __file__, "--write", str(path), "--rows", str(rows)], check=True)
        for way in ("parquet", "frame"):
            command = [sys.executable, __file__, _CHILD, way, str(path)]
            out = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            beyond = out["peak"] - out["before"]
            result[way] = {
                "MiB beyond what it held before": beyond / 2**20,
                "share of the frame": beyond / size,
                "MiB kept": (out["after"] - out["before"]) / 2**20,
                "windows": out["windows"],
            }
    return result


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--write")
    parser.add_argument(_CHILD, nargs=2, metavar=("WAY", "PATH"))
    options = parser.parse_args()
    if options.write:
        write_parquet(Path(options.write), options.rows)
    elif options.child:
        print(json.dumps(measure(options.child[1], options.child[0])))
    else:
        print(json.dumps(compare(options.rows), indent=1))


if __name__ == "__main__":
    main()
