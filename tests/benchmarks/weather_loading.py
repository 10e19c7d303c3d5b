"""Samples a second of weather windows here against those of xbatcher and of xarray's `isel`.

A store in WeatherBench 2's layout is written to a temporary folder: 4 surface variables and 5 variables on 13
levels on 32 x 64 points, one chunk a time, compressed as published. A sample is three times of all 69 fields,
at random places in a loader's batches of 8, in float32 tensors. Sides: `Fields`; xbatcher's `BatchGenerator`
with and without dask's arrays (`chunks=None`); and what users write, `open_zarr(store).isel(time=...)`, with
and without them. Before anything is timed all sides must give the same numbers. Sides take turns; the files
are in the page cache. A round begins with the second batch; with loader processes dask works without threads,
which a forked process has lost.

    .ci/peer xbatcher
    PYTHONPATH=. .bench/xbatcher/bin/python tests/benchmarks/weather_loading.py [--workers 0 2]
    PYTHONPATH=. python tests/benchmarks/weather_loading.py --memory

`--memory` needs no peer: it reads samples on 721 x 1440 points, 860 MB each, from an archive of six times and
from one of 93504 (64 years, of which six are on the disk) in a process each, and prints the peak of the
resident memory beyond what the process had after its imports: three samples are the limit. It needs 2 GB of
disk.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import CLOCKS, machine
from torch.utils.data import DataLoader, Dataset

SURFACE = ("2m_temperature", "10m_u_component_of_wind", "10m_v_component_of_wind", "mean_sea_level_pressure")
LEVELLED = ("geopotential", "temperature", "u_component_of_wind", "v_component_of_wind", "specific_humidity")
UNITS = ("K", "m/s", "m/s", "Pa", "m2/s2", "K", "m/s", "m/s", "kg/kg")
OURS = ["2t", "10u", "10v", "msl"], ["z", "t", "u", "v", "q"]
LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
STEPS, BATCH = 3, 8


def main() -> int:
    """Write the store and run what was asked for."""
    parser = argparse.ArgumentParser(description="Loading here against xbatcher and xarray.")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2], help="loader processes")
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--samples", type=int, default=64, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="processor, of a busy machine: no workers"
    )
    parser.add_argument("--memory", action="store_true", help="peak memory at 721 x 1440")
    parser.add_argument(
        "--alone", action="store_true", help="ours and xarray only, where the peer is missing"
    )
    parser.add_argument("--read", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.read:
        return read_one(options.read)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DFM_DATA"] = folder
        if options.memory:
            return memory(Path(folder))
        path = str(Path(folder) / "store.zarr")
        write(path, options.times, options.times, (32, 64))
        for workers in options.workers:
            compare(path, workers, options)
    return 0


def write(path: str, times: int, stored: int, shape: tuple[int, int]) -> None:
    """Write a store of smooth fields with noise in the last digits; only `stored` of the times get values."""
    import numcodecs
    import xarray
    import zarr

    rows, columns = shape
    noise = np.random.default_rng(0)
    axes = {
        "time": np.datetime64("1959-01-01", "ns") + np.arange(times) * np.timedelta64(6, "h"),
        "level": np.array(LEVELS),
        "latitude": np.linspace(90, -90, rows),
        "longitude": np.arange(columns) * 360 / columns,
    }
    xarray.Dataset(coords=axes).to_zarr(path, zarr_format=2)
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    for name, unit in zip((*SURFACE, *LEVELLED), UNITS, strict=True):
        dims = ["time", *(["level"] if name in LEVELLED else []), "latitude", "longitude"]
        inner = tuple(len(axes[dim]) for dim in dims[1:])
        array = group.create_array(
            name, shape=(times, *inner), chunks=(1, *inner), dtype="float32", fill_value=np.nan,
            compressors=numcodecs.Blosc("lz4", 5, numcodecs.Blosc.SHUFFLE),
            attributes={"_ARRAY_DIMENSIONS": dims, "units": unit},
        )  # fmt: skip
        smooth = 250 + 30 * np.cos(np.deg2rad(axes["latitude"]))[:, None] * np.ones(columns)
        for number in range(stored):
            # as reanalysis: a dozen bits of a value are signal
            values = smooth + number + np.round(noise.standard_normal((*inner[:-2], rows, columns)) * 64) / 64
            array[number] = values.astype(np.float32)
    zarr.consolidate_metadata(path)


class Samples(Dataset):
    """A data set of a function of the sample's number."""

    def __init__(self, read: Callable[[int], torch.Tensor], length: int) -> None:
        self.read, self.length = read, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, where: tuple[int, int]) -> torch.Tensor:
        return self.read(where[1])


def tensor(dataset: Any) -> torch.Tensor:
    """Return a sample's fields `(T, 69, H, W)`."""
    fields = [dataset[name].values[:, None] for name in SURFACE] + [dataset[name].values for name in LEVELLED]
    return torch.from_numpy(np.concatenate(fields, axis=1))


def fields(states: Any) -> torch.Tensor:
    """Return all fields of our states in one axis."""
    return torch.cat([states.surface, states.atmospheric.flatten(2, 3)], dim=2)


def by_isel(dataset: Any, number: int) -> torch.Tensor:
    """Return a sample as users read it."""
    return tensor(dataset.isel(time=slice(number, number + STEPS)).load())


def by_xbatcher(batches: Any, number: int) -> torch.Tensor:
    """Return a sample of xbatcher's generator."""
    return tensor(batches[number].load())


def ours(path: str, batch: int = BATCH) -> Any:
    """Return the data module of the store."""
    from apps.weather.data import Fields, TimeSplit, VariableChoice

    return Fields(
        path=path, variables=VariableChoice(*map(list, OURS)), statistics="aurora", batch_size=batch,
        split=TimeSplit(train=[1959, 2100]),
    )  # fmt: skip


def compare(path: str, workers: int, options: argparse.Namespace) -> None:
    """Time all sides with a number of loader processes."""
    import xarray

    sets: dict[str, Any] = {"ours": ours(path).train_set()}
    count = len(sets["ours"])
    if workers:  # a forked process has none of the threads that dask hands its work to
        import dask

        dask.config.set(scheduler="synchronous")
    for kind, how in {"dask": {}, "no dask": {"chunks": None}}.items():
        dataset = xarray.open_zarr(path, **how)
        sets[f"isel, {kind}"] = Samples(partial(by_isel, dataset), count)
        if not options.alone:
            import xbatcher

            sizes = {name: dataset.sizes[name] for name in ("level", "latitude", "longitude")}
            batches = xbatcher.BatchGenerator(
                dataset, {"time": STEPS, **sizes}, input_overlap={"time": STEPS - 1}
            )
            sets[f"xbatcher, {kind}"] = Samples(partial(by_xbatcher, batches), count)
    whole = sets["ours"].__getitems__([(0, 5)])
    values = torch.cat([fields(whole.inputs), fields(whole.targets)], dim=1)[0]
    for name, samples in sets.items():
        if name != "ours":
            assert torch.equal(values, samples[0, 5]), f"{name} gives other numbers"
    rates: dict[str, list[float]] = {name: [] for name in sets}
    for turn in range(options.rounds):
        for name in sets if turn % 2 == 0 else reversed(list(sets)):
            rates[name].append(rate(sets[name], workers, options.samples, turn, CLOCKS[options.clock]))
    for name, each in rates.items():
        ratio = statistics.median(a / b for a, b in zip(rates["ours"], each, strict=True))
        mean = statistics.median(each)
        print(
            f"{workers} workers  {name:18} {mean:8.1f} samples/s  {1e3 / mean:7.2f} ms  ({min(each):.1f} to "
            f"{max(each):.1f})  ours {ratio:.2f} x"
        )


def rate(samples: Any, workers: int, count: int, seed: int, clock: Callable[[], float]) -> float:
    """Return the samples a second of a loader in random order, from its second batch on."""
    order = np.random.default_rng(seed).permutation(len(samples))[: count + BATCH]
    whole = hasattr(samples, "__getitems__")
    loader = DataLoader(
        samples, sampler=[(0, int(number)) for number in order], batch_size=BATCH, num_workers=workers,
        collate_fn=(lambda batch: batch) if whole else torch.stack,
    )  # fmt: skip
    batches = iter(loader)
    next(batches)
    start, done = clock(), 0
    for _ in batches:
        done += BATCH
    return done / (clock() - start)


def memory(folder: Path) -> int:
    """Print the peak memory of reading large samples from a short and from a long archive."""
    sample = STEPS * 69 * 721 * 1440 * 4 / 1e9
    worst = 0.0
    for times in (6, 93504):
        path = str(folder / f"{times}.zarr")
        write(path, times, 6, (721, 1440))
        run = subprocess.run(
            [sys.executable, __file__, "--read", path], capture_output=True, text=True, check=True
        )
        beyond, seconds = map(float, run.stdout.split())
        worst = max(worst, beyond)
        print(
            f"{times} times: {beyond:.2f} GB beyond imports, {beyond / sample:.2f} samples of "
            f"{sample:.2f} GB; {seconds:.1f} s a sample"
        )
        subprocess.run(["rm", "-r", path], check=True)
    return int(worst > 3 * sample)


def read_one(path: str) -> int:
    """Print the peak of resident memory beyond imports, in GB, and seconds a sample."""
    import h5netcdf  # noqa: F401
    import xarray
    import zarr
    import zarrs  # noqa: F401

    import apps.weather.data.module  # noqa: F401

    xarray.backends.list_engines()
    zarr.config.get("codec_pipeline.path")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    windows = ours(path, 1).train_set()
    start = time.perf_counter()
    for number in range(4):
        batch = windows.__getitems__([(0, number)])
        assert batch.targets is not None and batch.inputs.atmospheric.shape[1:] == (2, 5, 13, 721, 1440)
        del batch
    seconds = (time.perf_counter() - start) / 4
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e9, seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
