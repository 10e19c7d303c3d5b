"""A small archive of made-up weather in WeatherBench 2's layout, and recipes of a tiny Aurora on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

__all__ = ["light_recipe", "recipe", "write_world"]

NAMES = {
    "geopotential": ("m**2 s**-2", 54000.0, 1000.0, True),
    "temperature": ("K", 270.0, 5.0, True),
    "2m_temperature": ("K", 280.0, 3.0, False),
    "mean_sea_level_pressure": ("Pa", 1e5, 300.0, False),
    "total_precipitation_6hr": ("m", 1e-3, 2e-4, False),
}


def write_world(path: Path, *, steps: int = 60, rows: int = 8, columns: int = 16) -> Path:
    """Write slowly drifting waves, every 6 hours from 2020 on, and return the path."""
    rng = np.random.default_rng(0)
    latitude = 90 - (np.arange(rows) + 0.5) * 180 / rows
    longitude = np.arange(columns) * 360 / columns
    time = np.datetime64("2020-01-01", "ns") + np.arange(steps) * np.timedelta64(6, "h")
    east = np.deg2rad(longitude)[None, None] - 0.1 * np.arange(steps)[:, None, None]
    fields = {}
    for number, (name, (unit, mean, scale, levels)) in enumerate(NAMES.items()):
        amplitude = rng.normal(size=(2, 1, rows, 1))
        waves = np.stack([np.cos((k + 1) * east + number) * amplitude[k] for k in (0, 1)], axis=1)
        values = (mean + scale * waves).clip(0).astype("f4")
        axes = ("time", "level", "latitude", "longitude") if levels else ("time", "latitude", "longitude")
        fields[name] = (axes, values if levels else values[:, 0], {"units": unit})
    land = (rng.random((rows, columns)) > 0.6).astype("f4")
    fields["land_sea_mask"] = (("latitude", "longitude"), land, {"units": "(0 - 1)"})
    world = xr.Dataset(
        fields, coords={"time": time, "level": [500, 850], "latitude": latitude, "longitude": longitude}
    )
    chunks = {name: {"chunks": (1, *world[name].shape[1:])} for name in NAMES}
    world.to_zarr(path, mode="w", encoding=chunks, zarr_format=2, consolidated=True)
    return path


def recipe(world: Path, *, task: str = "", about: str = "", data: str = "", network: str = "") -> str:
    """Return a recipe of a tiny network; the arguments are further lines of YAML."""
    return f"""
about: {{system: aurora, test_after_fit: false{about}}}
seed_everything: 1
model:
  class_path: apps.weather.tasks.WeatherForecasting
  init_args:
    network:
      class_path: apps.weather.models.aurora.Aurora
      init_args:
        surface: [2t, msl]
        static: [lsm]
        atmospheric: [z, t]
        width: 8
        patch: 2
        latent_levels: 2
        perceiver: {{heads: 2}}
        swin: {{window: [2, 2, 4], encoder_depths: [1, 1], encoder_heads: [1, 2], decoder_depths: [1, 1],
          decoder_heads: [2, 1]}}
        {network}
    optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 3.0e-3}}}}
    {task}
data:
  class_path: apps.weather.data.Fields
  init_args:
    path: {world}
    variables: {{surface: [2t, msl]}}
    patch: 2
    batch_size: 8
    seed: 1
    {data}
trainer: {{max_epochs: 2, num_sanity_val_steps: 0, log_every_n_steps: 1, accelerator: cpu}}
"""


def light_recipe(world: Path, *, task: str = "", data: str = "") -> str:
    """Return a recipe of light decoders of precipitation on the same network."""
    text = recipe(world, task=task, data=f"targets: {{surface: [tp], atmospheric: []}}\n    {data}")
    before, _, after = text.partition("    network:\n")
    backbone, _, after = after.partition("    optimizer:")
    inner = "".join(f"    {line}\n" for line in backbone.rstrip().splitlines())
    network = """    network:
      class_path: apps.weather.models.light_decoder.LightlyDecoded
      init_args:
        variables: [tp]
        hidden: [16, 16]
        backbone:
"""
    text = f"{before}{network}{inner}    optimizer:{after}"
    return text.replace("tasks.WeatherForecasting", "tasks.LightDecoding")
