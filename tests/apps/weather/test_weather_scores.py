"""Scores of weather forecasts are those of WeatherBench 2, and sums over parts are the whole."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from apps.weather.batch import Grid, States, Variables
from apps.weather.metrics.areas import latitude_weights, usual_weights
from apps.weather.metrics.baselines import DampedPersistence, SmoothClimatology, persistence
from apps.weather.metrics.comparison import differences
from apps.weather.metrics.ensembles import crps_parts, energy_parts
from apps.weather.metrics.errors import spatial_errors, spatial_means
from apps.weather.metrics.precipitation import seeps
from apps.weather.metrics.regions import BOXES, region_mask, region_weights
from apps.weather.metrics.scores import Blocks, WeatherScores
from apps.weather.metrics.spectra import zonal_spectrum
from apps.weather.metrics.times import calendar, valid_times, window_weights
from apps.weather.parity_cases.weather_metrics import run
from core.errors import UserError
from core.parity import load_case

GRID = Grid(np.linspace(80, -80, 9), np.arange(12) * 30.0)
VARIABLES = Variables(("2t", "10u", "10v"), ("z", "u", "v"), (500.0, 850.0))
LEADS = (6.0, 24.0)
STARTS = torch.arange(12) * 12 * 3600


def states(seed: int, samples: int = 12, steps: int = len(LEADS)) -> States:
    """Fields of VARIABLES on GRID."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (3, *GRID.shape), (3, 2, *GRID.shape)
    return States(*(torch.randn(samples, steps, *shape, generator=generator) for shape in shapes))


def rows(fields: States, which: slice) -> States:
    """Some of the samples."""
    return States(fields.surface[which], fields.atmospheric[which])


def scored(parts: list[slice], **options: object) -> WeatherScores:
    """Scores of two models, updated in parts."""
    scores = WeatherScores(GRID, VARIABLES, LEADS, **options)  # type: ignore[arg-type]
    for part in parts:
        for model, seed in (("persistence", 1), ("net", 2)):
            scores.update(model, rows(states(seed), part), rows(states(0), part), STARTS[part])
    return scores


@pytest.mark.parametrize("case", ["with_poles", "without_poles"])
def test_a_recorded_case_of_weatherbench_is_met(case: str, shared: Path) -> None:
    recorded = load_case(shared / "parity" / "weather_metrics" / f"{case}.json")

    results = run(recorded)

    for name, wanted in recorded.group("output").items():
        made = results[f"output/{name}"].double()
        torch.testing.assert_close(made, wanted.double(), rtol=1e-5, atol=1e-5, msg=name)


def test_cells_of_a_region_end_half_a_step_beyond_its_rows() -> None:
    latitude = np.arange(58.0, 49.9, -0.25)

    whole, bounded = (latitude_weights(latitude, kind) for kind in ("area", "bounded_area"))

    assert whole[-1] / whole[-2] > 100, "its last row reaches the pole"
    assert bounded[-1] / bounded[-2] == pytest.approx(1, abs=0.01)
    assert usual_weights(Grid(latitude, np.arange(8.0))) == "bounded_area" and usual_weights(GRID) == "area"


def test_land_and_sea_of_a_region_make_the_whole() -> None:
    land = np.random.default_rng(0).random(GRID.shape)

    for name in BOXES:
        whole, *parts = (region_mask(f"{name}{part}", GRID, land) for part in ("", "_land", "_sea"))
        np.testing.assert_allclose(parts[0] + parts[1], whole)
    with pytest.raises(UserError, match="europe"):
        region_mask("europa", GRID)
    with pytest.raises(UserError, match="land-sea mask"):
        region_mask("europe_sea", GRID)


def test_a_region_across_greenwich_is_found_on_a_grid_beyond_360() -> None:
    grid = Grid(np.arange(60.0, 34, -5), np.arange(350.0, 405, 5))

    assert region_mask("europe", grid).sum() == 6 * 11


def test_crps_and_seeps_are_those_of_the_package_scores() -> None:
    xr = pytest.importorskip("xarray")
    probability = pytest.importorskip("scores.probability")
    from scores.categorical import seeps as theirs

    members, truth = torch.randn(7, 5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    skill, spread = crps_parts(members, truth)
    fields = [xr.DataArray(x.numpy(), dims=("m", "y", "x")[3 - x.ndim :]) for x in (members, truth)]
    wanted = probability.crps_for_ensemble(*fields, "m", method="fair", preserve_dims="all")
    np.testing.assert_allclose((skill - spread / 2).numpy(), wanted, rtol=1e-6)

    rain = torch.rand(4, 30, 20, dtype=torch.float64) ** 4 * 10
    share, heavy = torch.rand(30, 20, dtype=torch.float64), torch.rand(30, 20, dtype=torch.float64) + 1
    ours = seeps(rain[0], rain[1], share, heavy, dry=0.25)
    named = [xr.DataArray(x.numpy(), dims=("y", "x")) for x in (rain[0], rain[1], share, heavy)]
    wanted = theirs(*named, dry_light_threshold=0.25, preserve_dims="all")
    np.testing.assert_allclose(ours.numpy(), wanted, rtol=1e-6)
    assert bool(ours.isnan().any()), "where it is nearly always dry or wet there is no score"


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 99))
def test_the_order_of_members_changes_the_crps_not(order: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    members = torch.randn(6, 9, 12, generator=generator, dtype=torch.float64)
    truth = torch.randn(9, 12, generator=generator, dtype=torch.float64)

    for one, other in zip(crps_parts(members, truth), crps_parts(members[order], truth), strict=True):
        torch.testing.assert_close(one, other)


def test_pairs_of_members_have_the_spread_that_ranks_tell() -> None:
    members, truth = torch.randn(5, 9, 12).double(), torch.randn(9, 12).double()
    pairs = [(members[i] - members[j]).abs() for i in range(5) for j in range(5) if i != j]

    torch.testing.assert_close(crps_parts(members, truth)[1], torch.stack(pairs).mean(0))
    _, weights = region_weights(GRID, ["global"])
    skill, spread = energy_parts(members[:1], truth, weights)
    torch.testing.assert_close(skill, spatial_means(weights, (members[0] - truth).square())[0].sqrt())
    assert spread.item() == 0, "a forecast alone has no spread"


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=3), st.booleans())
def test_sums_over_parts_are_the_whole(cuts: list[int], blocked: bool) -> None:
    edges = [0, *sorted(cuts), 12]
    parts = [slice(a, b) for a, b in pairwise(edges) if b > a]
    options = {"blocks": Blocks(days=1, most=4)} if blocked else {}

    whole, pieces = scored([slice(0, 12)], spectra=True, **options), scored(parts, spectra=True, **options)

    assert whole.sums.keys() == pieces.sums.keys()
    for key, values in whole.sums.items():
        torch.testing.assert_close(values, pieces.sums[key])


def test_leads_may_come_one_after_another() -> None:
    whole, apart = scored([slice(0, 12)]), WeatherScores(GRID, VARIABLES, LEADS)
    for k in range(2):
        for model, seed in (("persistence", 1), ("net", 2)):
            guess, truth = states(seed).at(slice(k, k + 1)), states(0).at(slice(k, k + 1))
            apart.update(model, guess, truth, STARTS, first=k)

    assert [row.keys() for row in whole.table()] == [row.keys() for row in apart.table()]
    for one, other in zip(whole.table(), apart.table(), strict=True):
        assert one == pytest.approx(other)


def _rank(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    scores = scored([slice(0, 5)] if rank == 0 else [slice(5, 12)], blocks=Blocks(days=2))
    if rank == 1:  # only one of the processes has seen this model
        scores.update("late", states(3), states(0), STARTS)
    scores.gather()
    torch.save(scores.sums, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_score_as_one(tmp_path: Path) -> None:
    mp.start_processes(_rank, args=(2, str(tmp_path)), nprocs=2, start_method="fork")
    whole = scored([slice(0, 12)], blocks=Blocks(days=2))
    whole.update("late", states(3), states(0), STARTS)

    for rank in range(2):
        sums = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert sums.keys() == whole.sums.keys()
        for key, values in whole.sums.items():
            torch.testing.assert_close(sums[key], values, rtol=1e-10, atol=1e-10)


def test_missing_values_are_left_out_counted_and_told() -> None:
    truth, forecast = states(0), states(1)
    forecast.surface[3, 1, 0, 2, 5] = torch.nan
    truth.atmospheric[:, :, 0, 0, :4] = torch.nan
    scores = WeatherScores(GRID, VARIABLES, LEADS, regions=["global", "northern_hemisphere"])

    scores.update("net", forecast, truth, STARTS)

    told = scores.missing()
    assert told[0].startswith("net: 1 values of 2t in the forecast are NaN")
    assert told[1].startswith(f"net: {12 * 2 * 4 * 12} values of z_500 in the truth are NaN")
    table = {(r["variable"], r["level"], r["lead"], r["region"]): r for r in scores.table()}
    assert all(row["rmse"] > 0 for row in table.values()), "no score is NaN"
    assert table["2t", None, 24.0, "global"]["missing"] == 1
    assert ("z", 500.0, 6.0, "northern_hemisphere") not in table, "there is no truth at all"


def test_states_without_truth_are_not_scored() -> None:
    scores = WeatherScores(GRID, VARIABLES, LEADS, regions=["global"])
    available = torch.ones(12, 2, dtype=torch.bool)
    available[4:, 1] = False
    truth = states(0)
    truth.surface[4:, 1] = torch.nan

    scores.update("net", states(1), truth, STARTS, available=available)

    assert [row["starts"] for row in scores.table() if row["variable"] == "2t"] == [12, 4]
    assert not scores.missing()


def test_a_perfect_forecast_has_no_error_all_correlation_and_the_spectrum_of_the_truth() -> None:
    normals = SmoothClimatology(12)
    normals.update(states(5), valid_times(STARTS, LEADS))
    scores = WeatherScores(GRID, VARIABLES, LEADS, climatology=normals, spectra=True)
    scores.update("net", states(0), states(0), STARTS)

    table = scores.table()
    assert all(row["rmse"] == row["mae"] == row["bias"] == 0 for row in table if "mae" in row)
    assert all(row["acc"] == pytest.approx(1) for row in table if "acc" in row)
    assert {row["variable"] for row in table} >= {"wind_vector", "10m_wind_vector"}
    assert all(row["energy"] == pytest.approx(row["truth"]) for row in scores.spectra())


def test_errors_of_openstl_are_means_over_batches() -> None:
    scores = scored([slice(0, 8), slice(8, 12)], openstl=True)

    row = next(row for row in scores.openstl_rows() if row["model"] == "net" and row["variable"] == "10u")
    errors = (states(2).surface - states(0).surface)[:, :, 1].double()
    roots = [float(part.square().mean().sqrt()) for part in (errors[:8], errors[8:])]
    assert row["batches"] == 2 and row["rmse"] == pytest.approx(sum(roots) / 2)
    assert row["mae"] == pytest.approx(float(errors[:8].abs().mean() + errors[8:].abs().mean()) / 2)


def test_the_spectrum_holds_the_energy_of_the_circle() -> None:
    field = torch.randn(9, 13, dtype=torch.float64)  # of an odd number all waves but the mean come twice
    latitude = torch.from_numpy(GRID.latitude.copy())
    circle = 2 * torch.pi * 6367.5e3 * latitude.deg2rad().cos()

    torch.testing.assert_close(zonal_spectrum(field, latitude).sum(-1), circle * field.square().mean(-1))


def test_the_better_of_two_forecasts_is_found_and_equal_ones_are_not() -> None:
    scores = WeatherScores(GRID, VARIABLES, LEADS, regions=["global"], blocks=Blocks(days=1))
    truth, noise = states(0), states(1)
    good = States(truth.surface + 0.9 * noise.surface, truth.atmospheric + 0.9 * noise.atmospheric)
    bad = States(truth.surface + noise.surface, truth.atmospheric + noise.atmospheric)
    for model, forecast in (("good", good), ("bad", bad), ("copy", good)):
        scores.update(model, forecast, truth, STARTS)

    better, same = differences(scores, "good", "bad"), differences(scores, "good", "copy")

    assert all(row["difference"] < 0 and row["high"] < 0 and row["significant"] for row in better)
    assert all(row["difference"] == row["low"] == row["high"] == 0 for row in same)
    assert better == differences(scores, "good", "bad"), "draws are seeded"
    alone = differences(scored([slice(0, 12)]), "net", "persistence")
    assert "low" not in alone[0], "one block tells no interval"


def test_baselines_of_a_short_hourly_archive_are_the_known_ones(shared: Path) -> None:
    xr = pytest.importorskip("xarray")
    data = xr.open_dataset(shared / "data" / "weather" / "era5_t2m_uk_hourly_2019-03.nc").t2m[:, :32, :48]
    fields = torch.from_numpy(data.values)
    times = torch.from_numpy(data.time.values.astype("datetime64[s]").astype(np.int64))
    leads = range(1, 13)

    def windows(starts: range) -> tuple[States, States, Tensor]:
        def of(first: int, last: int) -> States:
            values = torch.stack([fields[s + first : s + last] for s in starts])[:, :, None]
            return States(values, values.new_zeros(*values.shape[:2], 0, 0, 32, 48))

        return of(11, 12), of(12, 24), times[[s + 11 for s in starts]]

    normals = SmoothClimatology(1)
    every = fields[None, :520, None]
    normals.update(States(every, every.new_zeros(1, 520, 0, 0, 32, 48)), times[None, :520])
    damped = DampedPersistence(normals, leads)
    damped.update(*windows(range(497)))
    start, truth, time = windows(range(558, 721))
    grid = Grid(data.latitude.values, data.longitude.values % 360 + 360 * (data.longitude.values >= 0))
    scores = WeatherScores(grid, Variables(("2t",)), leads, weights="none")
    scores.update("persistence", persistence(start, 12), truth, time)
    scores.update("climatology", normals.at(valid_times(time, leads)), truth, time)
    scores.update("damped persistence", damped.forecast(start, time), truth, time)

    mse = [float(scores.means(model)["mse"].mean()) for model in scores.models]
    assert mse == pytest.approx([7.5543, 3.4856, 2.7445], abs=5e-5)


def test_a_climatology_follows_the_year_where_training_saw_it() -> None:
    days = torch.arange(0, 730) * 86400
    course = torch.sin(2 * torch.pi * days / (365.2425 * 86400))
    values = (10 + 5 * course)[None, :, None, None, None].expand(1, -1, 1, 2, 3)
    none = torch.zeros(1, 730, 0, 0, 2, 3)
    whole, part = SmoothClimatology(24), SmoothClimatology(24)
    whole.update(States(values, none), days[None])
    part.update(States(values[:, :60], none[:, :60]), days[None, :60])
    later = 731 * 86400 + 90 * 86400 * torch.arange(4)[None]

    expected = 10 + 5 * torch.sin(2 * torch.pi * later[0] / (365.2425 * 86400))
    torch.testing.assert_close(whole.at(later).surface[0, :, 0, 0, 0], expected, atol=0.02, rtol=0)
    mean = values[0, :60, 0, 0, 0].mean().expand(4)
    torch.testing.assert_close(part.at(later).surface[0, :, 0, 0, 0], mean, atol=1e-3, rtol=0)


def test_hours_and_days_of_leap_years_and_the_triangular_window() -> None:
    hours, days = calendar(["2020-12-31T18", "2021-12-31T06", "2020-02-29T00"])
    weights = window_weights()

    assert hours.tolist() == [18, 6, 0] and days.tolist() == [366, 365, 60]
    assert weights[0] == weights[-1] == 0 and weights.mean() == pytest.approx(1) and weights.argmax() == 30


def test_scores_of_one_precision_are_near_those_of_float64_fields() -> None:
    _, weights = region_weights(GRID, ["global", "tropics"])
    forecast, truth = 5e4 + 300 * torch.randn(4, 9, 12).double(), 5e4 + 300 * torch.randn(4, 9, 12).double()

    exact = spatial_errors(forecast, truth, weights)
    rounded = spatial_errors(forecast.float(), truth.float(), weights)

    for name, values in exact.items():
        torch.testing.assert_close(rounded[name], values, rtol=1e-5, atol=1e-3)


def test_known_answers_of_persistence_on_real_analyses(shared: Path) -> None:
    pytest.importorskip("cfgrib")
    from apps.weather.metrics.verification import ScoreChoice, verify

    folder = shared / "data" / "weather"
    expected = json.loads((folder / "expected_values.json").read_text())["persistence"]
    files = (
        "ifs_pl_10deg_6h_2024-06.nc",
        "ifs_pl_10deg_6h_2024-06_wb2layout.zarr",
        "grib/ifs_oper_pl_10deg_2024-06-03_04.grib",
    )
    choice = ScoreChoice(leads=(6.0, 12.0, 24.0), regions=("global",), spectra=False)

    def table(file: str, weights: str) -> dict[str, dict[str, float]]:
        result = verify(["persistence"], str(folder / file), choice=replace(choice, weights=weights))
        rows = result.scores.table()
        return {f"{row['variable']}{row['level']:g}_{row['lead']:g}h": row for row in rows}

    for file in files:
        for cell, row in table(file, "area").items():
            if cell not in expected:
                continue
            values = expected[cell]
            assert row["starts"] == values["n_starts"]
            assert row["rmse_per_start"] == pytest.approx(values["rmse_sqrt_before_time_avg"], rel=1e-5)
            for name in ("rmse", "mae", "bias"):
                assert row[name] == pytest.approx(values[name], rel=1e-5), (file, cell, name)
    for weights, name in (("cos", "rmse_cos_lat_weights"), ("none", "rmse_unweighted")):
        others = table(files[0], weights)
        for cell, values in expected.items():
            assert others[cell]["rmse"] == pytest.approx(values[name], rel=1e-5)
