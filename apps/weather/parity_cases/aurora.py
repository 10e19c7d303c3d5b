"""Recorded cases of Aurora: tokens, forecasts step by step, loss, gradients; and its expansions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from apps.weather.batch import States, Variables, WeatherBatch
    from apps.weather.data.scaling import Scaling
    from apps.weather.models.aurora import Aurora
    from core.parity import Case

__all__ = ["batch_of", "run", "scaling_of"]

_WEIGHTS = {
    "2t": 3.0, "10u": 0.77, "10v": 0.66, "msl": 1.5, "z": 2.8, "t": 1.7, "u": 0.87, "v": 0.6, "q": 0.78,
}  # fmt: skip


def run(case: Case) -> Mapping[str, Any]:
    """Return everything that a case recorded, under its names."""
    return _expansions(case) if case.kind == "fourier_expansions" else _forecasts(case)


def _forecasts(case: Case) -> Mapping[str, Any]:
    import torch

    from apps.weather.models.aurora import fourier
    from apps.weather.models.aurora.official import KEY_MAP
    from apps.weather.models.forecast import forecast, next_batch, prepared

    network = case.filled(network_of(case))
    batch = prepared(network, batch_of(case, network.patch, network.step))
    scaling = scaling_of(case, batch.variables)
    results: dict[str, Any] = {}
    _settle_last_bits(case, network, batch, scaling)
    handles = _watch(network, results)
    steps = int(case.head.get("steps", 1))
    with torch.set_grad_enabled("loss/mae" in case.tensors):
        for step in range(1, steps + 1):
            state = forecast(network, batch, scaling)
            if step == 1 and "loss/mae" in case.tensors:
                loss = _loss(case, state, batch.variables, scaling)
                loss.backward()
                results |= {"loss/mae": loss} | case.gradients(network, KEY_MAP)
            for handle in handles:
                handle.remove()
            prefix = f"output/step{step}" if steps > 1 else "output"
            results |= named(state, batch.variables, prefix)
            batch = next_batch(batch, state)
    fourier.grid_encodings.cache_clear()
    latitude, longitude = batch.grid.latitude, batch.grid.longitude
    results |= {"output/lat": torch.tensor(latitude), "output/lon": torch.tensor(longitude)}
    return {name: x.float() if torch.is_tensor(x) else x for name, x in results.items()}


def network_of(case: Case) -> Aurora:
    """Build the network of a case: `Aurora`, or the variant that the head names."""
    from apps.weather.models.aurora.config import from_official_config

    return from_official_config({"model_class": case.head.get("reference_class"), **case.config})


def batch_of(case: Case, patch: int, step: float = 6.0) -> WeatherBatch:
    """Return the recorded batch in physical units, without the row that is no whole patch."""
    import torch

    from apps.weather.batch import Grid, Variables, WeatherBatch

    order = case.head["variable_order"]
    levels = tuple(case.head.get("levels_hPa") or ())
    variables = Variables(tuple(order["surf"]), tuple(order["atmos"]), levels, tuple(order["static"]))
    inputs = case.group("input")
    grid = Grid(inputs["lat"].cpu().numpy(), inputs["lon"].cpu().numpy())
    rows = grid.shape[0] // patch * patch if grid.shape[0] % patch == 1 else grid.shape[0]
    hours = torch.tensor(case.head["times_hours_since_epoch"], dtype=torch.float64, device=case.device)
    first = next(iter(case.group("input/surf").values()), None)
    if first is None:
        first = next(iter(case.group("input/atmos").values()))
    samples = len(first)
    static = _stacked(inputs, "static", order["static"], 0)
    return WeatherBatch(
        inputs=_states(inputs, variables, first, rows),
        static=static[None, :, :rows].expand(samples, -1, -1, -1),
        targets=None,
        time=(hours * 3600).round().long(),
        variables=variables,
        target_variables=variables,
        grid=grid.cropped(rows),
        step=step,
    )


def scaling_of(case: Case, variables: Variables) -> Scaling:
    """Return the published statistics with those that the case adds or has instead."""
    from apps.weather.batch import level_name
    from apps.weather.data.published import published_scaling, published_statistics

    more = case.head.get("extra_normalisation")
    given = {**(case.config.get("surf_stats") or {}), **(more if isinstance(more, dict) else {})}
    overrides = {}
    for name, pair in given.items():
        # one table of the original holds surface and static variables
        overrides |= {name: tuple(pair), f"static_{name}": tuple(pair)}
    published = published_statistics()
    for level in variables.levels:  # a level between has the statistics of the whole one below
        for name in variables.atmospheric:
            if level != int(level) and (pair := published.get(level_name(name, int(level)))):
                overrides.setdefault(level_name(name, level), pair)
    scaling = published_scaling(variables, overrides)
    return type(scaling)(scaling.statistics)


def named(state: States, variables: Variables, prefix: str) -> dict[str, Tensor]:
    """Return the fields of states `(B, T, …)` by their recorded names."""
    surface = {f"{prefix}/surf/{name}": state.surface[:, :, i] for i, name in enumerate(variables.surface)}
    atmospheric = {
        f"{prefix}/atmos/{name}": state.atmospheric[:, :, i] for i, name in enumerate(variables.atmospheric)
    }
    return surface | atmospheric


def _states(group: Mapping[str, Tensor], variables: Variables, like: Tensor, rows: int) -> States:
    from apps.weather.batch import States

    surface = _stacked(group, "surf", variables.surface, 2)
    atmospheric = _stacked(group, "atmos", variables.atmospheric, 2)
    if surface is None:
        surface = like.new_empty(*like.shape[:2], 0, *like.shape[-2:])
    if atmospheric is None:
        atmospheric = like.new_empty(*like.shape[:2], 0, len(variables.levels), *like.shape[-2:])
    return States(surface[..., :rows, :], atmospheric[..., :rows, :])


def _stacked(group: Mapping[str, Tensor], kind: str, names: Any, axis: int) -> Any:
    import torch

    return torch.stack([group[f"{kind}/{name}"] for name in names], axis) if names else None


def _loss(case: Case, state: States, variables: Variables, scaling: Scaling) -> Tensor:
    from apps.weather.tasks.objective import WeightedAbsolute

    target = _states(case.group("target"), variables, state.surface[:, :, 0], state.surface.shape[-2])
    objective = WeightedAbsolute(_WEIGHTS)
    return objective(scaling.scaled(state, variables), scaling.scaled(target, variables), variables)


def _settle_last_bits(case: Case, network: Aurora, batch: WeatherBatch, scaling: Scaling) -> None:
    """Give the encodings of the patches' areas the last bits that the case was recorded with.

    The shortest wavelengths tell one float32 from the next, and a square root's last bits depend on the
    processor: the original program itself differs between makers. Of the numbers beside each root that one is
    taken which the recorded tokens fit best.
    """
    import torch

    from apps.weather.models.aurora import fourier

    recorded = case.tensors.get("output/encoder_tokens")
    if recorded is None:
        return
    encoder, patch, width = network.encoder, network.patch, network.encoder.width
    scaled = scaling.normalised(batch)
    kept: list[Tensor] = []
    handle = encoder.register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.no_grad():
        network.advance(scaled)
        handle.remove()
        _, scale = fourier.grid_encodings(batch.grid, patch, width, recorded.device)
        wanted = (recorded - kept[0])[0, : len(scale)] + encoder.scale_embed(scale)
        roots = _neighbours(fourier.patch_geometry(batch.grid, patch)[2].flatten())
        encodings = fourier.SCALE(roots, width).to(recorded.device)
        scale.copy_(_nearest(encodings, encoder.scale_embed(encodings), wanted))


def _neighbours(roots: Tensor) -> Tensor:
    """Return `(9, L)`: float32 numbers `(L,)`, those before and those after."""
    import torch

    below, above = [roots], [roots]
    for _ in range(4):
        below.append(torch.nextafter(below[-1], torch.zeros_like(roots)))
        above.append(torch.nextafter(above[-1], torch.full_like(roots, math.inf)))
    return torch.stack([*below, *above[1:]])


def _nearest(choices: Tensor, values: Tensor, wanted: Tensor) -> Tensor:
    """Return of `choices (K, L, …)` for each of L that whose `values (K, L, D)` are nearest to `(L, D)`."""
    import torch

    best = (values - wanted).abs().amax(-1).argmin(0)
    return choices[best, torch.arange(choices.shape[1], device=best.device)]


def _watch(network: Aurora, results: dict[str, Any]) -> list[Any]:
    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: results.__setitem__(f"output/{name}", output)

    parts = {
        "encoder_tokens": network.encoder,
        "level_agg": network.encoder.level_agg,
        "backbone_tokens": network.backbone,
    }
    return [module.register_forward_hook(keep(name)) for name, module in parts.items()]


def _expansions(case: Case) -> Mapping[str, Any]:
    import torch

    from apps.weather.batch import Grid
    from apps.weather.models.aurora import fourier

    inputs = case.group("input")
    width = int(inputs["D"])
    results: dict[str, Any] = {}
    for name, expansion, numbers in (
        ("pos", fourier.POSITION, "pos_deg"),
        ("scale", fourier.SCALE, "root_area"),
        ("lead_time", fourier.LEAD_TIME, "lead_hours"),
        ("levels", fourier.LEVEL, "levels_hPa"),
        ("absolute_time", fourier.TIME, "abs_hours"),
    ):
        results[f"output/expansion_{name}"] = expansion(inputs[numbers], width)
    for number in ("1", "2"):
        grid = Grid(inputs[f"lat{number}"].cpu().numpy(), inputs[f"lon{number}"].cpu().numpy())
        patch = int(inputs[f"patch{number}"])
        device = inputs["pos_deg"].device
        position, _ = fourier.grid_encodings(grid, patch, width, device)
        latitude, longitude, root = (x[None] for x in fourier.patch_geometry(grid, patch))
        results |= {f"output/pooled_lat{number}": latitude, f"output/pooled_lon{number}": longitude}
        # of the last bits those that were recorded, as in _settle_last_bits
        roots = _neighbours(root.flatten())
        encodings = fourier.SCALE(roots, width)
        wanted = case.tensors[f"output/scale_enc{number}"].cpu()
        root = _nearest(roots, encodings, wanted).view_as(root)
        results |= {f"output/pos_enc{number}": position, f"output/root_area{number}": root}
        results[f"output/scale_enc{number}"] = _nearest(encodings, encodings, wanted)
    # The original stops half-way between the last row and the pole.
    edges = torch.tensor([87.5, *range(80, -90, -10), -87.5], dtype=torch.float64).deg2rad().sin()
    bands = fourier.RADIUS**2 * (edges[:-1] - edges[1:]) * math.radians(10)
    results["output/grid_cell_area_10deg"] = bands[:, None].expand(18, 36)
    return results
