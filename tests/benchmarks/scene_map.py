"""Seconds and peak memory of mapping a large synthetic scene with a cheap model, in a process of its own.

Run: `python tests/benchmarks/scene_map.py [--side 20000] [--tile 512] [--overlap 64] [--kind classes]`. The
scene of six int16 bands has random values in every `--every`-th block of 512 pixels and zeros in the others,
which the sparse file leaves out; all are data and are mapped. The model is three differences of bands; with
`--constant` it gives one score everywhere, and the map is checked to be constant. `--stripped` lays the scene
out in strips. `base` is what the process holds after imports.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BANDS = 6


def write_scene(path: Path, side: int, every: int, *, stripped: bool) -> None:
    """Write random values into every so many blocks of a sparse GeoTIFF."""
    import numpy as np
    import rasterio
    from rasterio.transform import from_origin
    from rasterio.windows import Window

    layout: dict[str, Any] = {"tiled": True, "blockxsize": 512, "blockysize": 512}
    if stripped:
        layout = {"tiled": False, "blockysize": 16}
    grid = {"crs": "EPSG:32633", "transform": from_origin(4e5, 45e5, 10.0, 10.0)}
    rng = np.random.default_rng(0)
    with (
        rasterio.Env(GDAL_CACHEMAX=256 * 2**20),
        rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=side,
            height=side,
            count=BANDS,
            dtype="int16",
            interleave="band",
            SPARSE_OK=True,
            BIGTIFF="YES",
            **layout,
            **grid,
        ) as made,
    ):
        spots = [(y, x) for y in range(0, side, 512) for x in range(0, side, 512)]
        for y, x in spots:
            rows, columns = min(512, side - y), min(512, side - x)
            values = np.zeros((BANDS, rows, columns), dtype=np.int16)
            if (y // 512 + x // 512) % every == 0:
                values = rng.integers(0, 10_000, values.shape, dtype=np.int16)
            made.write(values, window=Window(x, y, columns, rows))


def measure(scene: str, out: str, options: dict[str, Any]) -> dict[str, Any]:
    """Map the scene and return seconds and bytes; runs in the child."""
    import rasterio
    import torch
    from rasterio.windows import Window

    from apps.remote_sensing.predict.mapping import map_scene
    from apps.remote_sensing.predict.settings import MapSettings

    torch.set_num_threads(1)

    def cheap(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0] - x[:, 3], x[:, 1] - x[:, 4], x[:, 2] - x[:, 5]], dim=1)

    def constant(x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.1, 1 / 3, 0.2]).view(1, 3, 1, 1).expand(len(x), 3, *x.shape[2:])

    how = MapSettings(
        names=("a", "b", "c"),
        kind=options["kind"],
        tile=options["tile"],
        overlap=options["overlap"],
        cache=options["cache"] * 2**20,
    )
    torch.zeros(1).add(1)
    before = _resident()
    began = time.perf_counter()
    done = map_scene(scene, out, constant if options["constant"] else cheap, how)
    seconds = time.perf_counter() - began
    peak = _resident("VmHWM") / 2**20  # `ru_maxrss` would begin with the parent's
    result = {
        "seconds": round(seconds, 1),
        "peak_MiB": round(peak),
        "base_MiB": round(before / 2**20),
        "valid": done.valid,
        "megabytes_of_map": round(Path(out).stat().st_size / 1e6, 1),
    }
    if options["constant"]:
        seen: set[bytes] = set()
        with rasterio.open(out) as made:
            for top in range(0, made.height, 512):
                values = made.read(window=Window(0, top, made.width, min(512, made.height - top)))
                seen |= {values[:, 0, 0].tobytes()}
                assert (values == values[:, :1, :1]).all()
        result["constant"] = len(seen) == 1
    return result


def _resident(field: str = "VmRSS") -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1]) * 1024


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--overlap", type=int, default=64)
    parser.add_argument("--kind", choices=("classes", "scores"), default="classes")
    parser.add_argument("--cache", type=int, default=256, help="MiB that GDAL may keep")
    parser.add_argument("--constant", action="store_true")
    parser.add_argument("--stripped", action="store_true")
    parser.add_argument("--folder", help="where the scene and the map are written for the while")
    parser.add_argument("--child", nargs=2, metavar=("SCENE", "MAP"))
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*options.child, vars(options))))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        scene = Path(folder) / "scene.tif"
        write_scene(scene, options.side, options.every, stripped=options.stripped)
        child = ["--child", str(scene), str(Path(folder) / "map.tif")]
        command = [sys.executable, __file__, *sys.argv[1:], *child]
        root = Path(__file__).parents[2]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root).stdout
        print(json.dumps({"scene_bytes_on_disk": scene.stat().st_blocks * 512} | json.loads(out), indent=1))


if __name__ == "__main__":
    main()
