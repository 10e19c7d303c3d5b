"""Metrics of the PDE domain: values worked out by hand, and what must hold for any fields."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.pde.metrics import errors as metrics
from apps.pde.metrics import physics
from core.errors import UserError
from core.metrics import gains

SEEDS = st.integers(0, 2**31)
BY_CHANNEL = [
    metrics.scaled_l2,
    metrics.relative_l1,
    metrics.relative_l2,
    metrics.relative_h1,
    metrics.rmse,
    metrics.nrmse,
    metrics.vrmse,
    metrics.max_error,
    metrics.boundary_rmse,
]


def fields(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wave(n: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates of a periodic unit square, each `(n, n)`."""
    line = torch.arange(n, dtype=torch.float64) / n
    x, y = torch.meshgrid(line, line, indexing="ij")
    return x, y


LABEL = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)[None, None, None]
GUESS = torch.tensor([[2.0, 2.0], [3.0, 2.0]], dtype=torch.float64)[None, None, None]


@pytest.mark.parametrize(
    ("metric", "wanted"),
    [
        (metrics.relative_l1, 100 * 3 / 10),
        (metrics.scaled_l2, math.sqrt(5 / 30)),
        (metrics.relative_l2, math.sqrt(5) / (math.sqrt(30) + 1e-8)),
        (metrics.rmse, math.sqrt(5 / 4)),
        (metrics.nrmse, math.sqrt(5 / 30)),
        (metrics.vrmse, math.sqrt((5 / 4) / (5 / 3 + 1e-7))),
        (metrics.max_error, 2.0),
        (metrics.crmse, 1 / 4),
        (metrics.boundary_rmse, math.sqrt(5 / 4)),
    ],
)
def test_values_by_hand(metric, wanted):
    assert float(metric(GUESS, LABEL)) == pytest.approx(wanted, rel=1e-12)


def test_relative_l1_adds_up_a_groups_channels_before_the_ratio():
    target = torch.ones(1, 1, 3, 2, 2) * torch.tensor([1.0, 3.0, 0.0])[:, None, None]
    prediction = target + 1.0

    errors = metrics.relative_l1(prediction, target, [0, 2, 3])

    assert errors.shape == (1, 1, 2)
    assert errors[0, 0].tolist() == pytest.approx([100 * 8 / 16, 100 * 4 / 1e-10])


def test_the_headline_is_the_median_over_samples_then_the_mean_over_groups():
    errors = torch.tensor([[1.0, 10.0], [2.0, 20.0], [9.0, 90.0], [4.0, 40.0]])

    assert float(metrics.headline(errors)) == pytest.approx((3 + 30) / 2)
    assert float(metrics.headline(errors, statistic="mean")) == pytest.approx((4 + 40) / 2)


def test_pooled_errors_are_gphyts(shared):
    from core.parity import load_case, run_case

    path = shared / "parity" / "gphyt" / "a_absolute_linear.json"
    case = load_case(path)
    prediction, target = (
        case.tensors[name].permute(0, 1, 4, 2, 3) for name in ("output/next", "input/target")
    )
    given = {"eps": metrics.GPHYT_EPS, "pooled": True}

    assert run_case(path).passed
    for name, metric in (("nrmse", metrics.nrmse), ("vrmse", metrics.vrmse)):
        ours = metric(prediction, target[:, :1], **given)
        assert torch.allclose(ours, case.tensors[f"loss/{name}_dims123"], rtol=1e-4)


def test_pooling_averages_over_frames():
    prediction, target = fields(2, 3, 1, 4, 4), fields(2, 3, 1, 4, 4, seed=1)
    error, label = prediction - target, target

    wanted = (error.square().mean((1, 3, 4)) / label.square().mean((1, 3, 4))).sqrt()

    assert torch.allclose(metrics.nrmse(prediction, target, pooled=True), wanted)


def test_the_h1_error_of_a_wave_counts_its_slope():
    x, _ = wave(16)
    target = torch.sin(2 * math.pi * x)[None, None, None]
    slope = 16 * math.sin(2 * math.pi / 16)  # of a central difference
    noise = torch.full_like(target, 0.1)

    found = float(metrics.relative_h1(target + noise, target))

    assert found == pytest.approx(0.1 / math.sqrt(0.5 + 0.5 * slope**2), rel=1e-6)


def test_crmse_sees_the_sum_only():
    target = torch.zeros(2, 1, 1, 2, 2)
    prediction = torch.tensor([[[1.0, -1.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])[:, None, None]

    assert metrics.crmse(prediction, target).tolist() == [[pytest.approx(math.sqrt(0.5))]]


def test_the_boundary_error_looks_at_the_edge_and_counts_corners_twice():
    target = torch.zeros(1, 1, 1, 4, 4)
    inside, corner = target.clone(), target.clone()
    inside[..., 1:3, 1:3] = 5.0
    corner[..., 0, 0] = 2.0

    assert float(metrics.boundary_rmse(inside, target)) == 0.0
    assert float(metrics.boundary_rmse(corner, target)) == pytest.approx(math.sqrt(2 * 4 / 16))


@pytest.mark.parametrize(("mode", "band"), [(2, 0), (3, 0), (4, 1), (11, 1), (12, 2), (15, 2)])
def test_a_wave_stands_in_the_band_of_its_wavenumber(mode, band):
    x, _ = wave(32)
    error = 2 * torch.cos(2 * math.pi * mode * x)[None, None, None]
    widths = [4, 8, 4]

    found = metrics.fourier_rmse(error, torch.zeros_like(error))[:, 0, 0]

    # One coefficient of amplitude 1 (its mirror image is not counted), averaged over the band.
    assert found[band].item() == pytest.approx(1 / widths[band])
    assert found.sum().item() == pytest.approx(1 / widths[band])


def test_bands_of_one_axis():
    x = torch.arange(32, dtype=torch.float64) / 32
    error = torch.cos(2 * math.pi * 5 * x)[None, None, None]

    assert metrics.fourier_rmse(error, 0 * error)[:, 0, 0].tolist() == pytest.approx(
        [0, 0.5 / 8, 0], abs=1e-12
    )


def test_the_spectrum_of_a_wave_is_its_energy_at_its_wavenumber():
    x, y = wave()
    velocity = torch.stack([torch.sin(2 * math.pi * 3 * y), 2 * torch.cos(2 * math.pi * 4 * x)])[None]

    spectrum = physics.energy_spectrum(velocity)[0]

    assert spectrum[3].item() == pytest.approx(1 / 4)
    assert spectrum[4].item() == pytest.approx(1.0)
    assert spectrum.sum().item() == pytest.approx(5 / 4)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, space=st.lists(st.integers(3, 9), min_size=1, max_size=3), parts=st.integers(1, 3))
def test_the_spectrum_adds_up_to_the_energy(seed, space, parts):
    velocity = fields(2, parts, *space, seed=seed)

    total = velocity.square().sum(1).flatten(1).mean(1) / 2

    assert torch.allclose(physics.energy_spectrum(velocity).sum(1), total)


def test_the_spectrum_error_is_in_powers_of_ten():
    velocity = fields(3, 2, 16, 16)

    assert physics.spectrum_error(velocity, velocity).tolist() == [0.0, 0.0, 0.0]
    assert physics.spectrum_error(velocity * 10, velocity).tolist() == pytest.approx([2.0] * 3)
    assert physics.spectrum_error(velocity + 5.0, velocity).tolist() == pytest.approx([0.0] * 3, abs=1e-9)


def test_empty_shells_do_not_count():
    x, _ = wave()
    velocity = torch.stack([0 * x, torch.sin(2 * math.pi * x)])[None]
    noise = 1e-9 * fields(1, 2, 16, 16)

    assert float(physics.spectrum_error(velocity + noise, velocity)) < 1e-3


def test_divergence_of_a_vortex_is_zero_and_of_a_source_its_slope():
    x, y = wave()
    vortex = torch.stack([torch.sin(2 * math.pi * y), torch.cos(4 * math.pi * x)])[None, None]
    source = torch.stack([torch.sin(2 * math.pi * x), torch.sin(2 * math.pi * y)])[None, None]
    wanted = math.pi * (torch.cos(2 * math.pi * x) + torch.cos(2 * math.pi * y))

    assert float(physics.divergence(vortex).abs().max()) < 1e-12
    assert torch.allclose(physics.divergence(source, lengths=[2.0, 2.0])[0, 0], wanted)


def test_divergence_needs_a_component_for_every_axis():
    with pytest.raises(UserError, match="one component"):
        physics.divergence(torch.zeros(1, 1, 3, 4, 4))


def test_conserved_quantities_of_a_gas():
    names = ["density", "velocity_x", "velocity_y", "pressure", "tracer"]
    state = torch.tensor([2.0, 3.0, -1.0, 0.8, 0.5])[None, None, :, None, None].expand(1, 2, 5, 4, 4)

    found = {name: value.tolist()[0] for name, value in physics.conserved(state, names).items()}

    assert found == {
        "mass": pytest.approx([2.0, 2.0]),
        "momentum_x": pytest.approx([6.0, 6.0]),
        "momentum_y": pytest.approx([-2.0, -2.0]),
        "energy": pytest.approx([0.8 / 0.4 + 10.0] * 2),
        "tracer": pytest.approx([1.0, 1.0]),
    }


def test_an_incompressible_flow_has_the_density_one():
    state = torch.tensor([3.0, 4.0])[None, None, :, None, None].expand(1, 1, 2, 4, 4)

    found = physics.conserved(state, ["velocity_x", "velocity_y"])

    assert {name: float(value) for name, value in found.items()} == {
        "momentum_x": 3.0,
        "momentum_y": 4.0,
        "kinetic_energy": 12.5,
    }


def test_drift_is_relative_to_the_size_and_not_to_a_total_of_zero():
    x, _ = wave()
    start = torch.stack([torch.ones_like(x), torch.sin(2 * math.pi * x)])[None, None]
    later = torch.stack([1.1 * start[0, 0, 0], start[0, 0, 1] + 0.1])[None, None]
    names = ["density", "velocity_x"]

    still, moved = physics.drift(start, start, names), physics.drift(later, start, names)

    assert [float(value) for value in still.values()] == [0.0, 0.0]
    assert float(moved["mass"]) == pytest.approx(0.1)
    assert float(moved["momentum_x"]) == pytest.approx(0.11 / float(torch.sin(2 * math.pi * x).abs().mean()))


def test_names_must_fit_the_channels():
    with pytest.raises(UserError, match="1 names are given for fields of 2 channels"):
        physics.conserved(torch.zeros(1, 1, 2, 4, 4), ["density"])


@pytest.mark.parametrize("metric", BY_CHANNEL)
@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, space=st.lists(st.integers(2, 6), min_size=1, max_size=3))
def test_an_error_belongs_to_its_sample(metric, seed, space):
    prediction, target = fields(4, 2, 3, *space, seed=seed), fields(4, 2, 3, *space, seed=seed + 1)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))

    found = metric(prediction, target)

    assert found.shape == (4, 2, 3)
    assert torch.equal(metric(prediction[order], target[order]), found[order])
    assert torch.equal(metric(target, target), torch.zeros_like(found))


@pytest.mark.parametrize("metric", [metrics.crmse, metrics.fourier_rmse])
@settings(max_examples=8, deadline=None)
@given(seed=SEEDS)
def test_errors_of_a_batch_do_not_depend_on_its_order(metric, seed):
    prediction, target = fields(4, 2, 3, 26, 26, seed=seed), fields(4, 2, 3, 26, 26, seed=seed + 1)

    assert torch.allclose(metric(prediction.flip(0), target.flip(0)), metric(prediction, target))


@pytest.mark.parametrize("metric", [metrics.scaled_l2, metrics.nrmse, metrics.relative_l1])
def test_relative_errors_do_not_depend_on_the_unit(metric):
    prediction, target = fields(2, 1, 2, 8, 8), fields(2, 1, 2, 8, 8, seed=1)

    assert torch.allclose(metric(1e3 * prediction, 1e3 * target), metric(prediction, target))


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="both must be"):
        metrics.rmse(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 5))


def test_the_efficiency_gain_is_read_between_the_points_in_logarithms():
    sizes, errors = [16, 4, 64], [0.2, 0.4, 0.1]  # error = 0.8 / sqrt(samples)

    gain = gains.efficiency_gain(sizes, errors, 1024, 0.8 / math.sqrt(32))

    assert (float(gain), gain.bound) == (pytest.approx(32.0), "exact")
    assert float(gains.efficiency_gain(sizes, errors, 1024, 0.1)) == pytest.approx(16.0)
    assert str(gain) == "32"


@pytest.mark.parametrize(
    ("error", "value", "bound"),
    [(0.5, 256.0, "at_least"), (0.4, 256.0, "exact"), (0.05, 16.0, "at_most")],
)
def test_where_the_curve_ends_the_efficiency_gain_is_a_bound(error, value, bound):
    gain = gains.efficiency_gain([4, 16, 64], [0.4, 0.2, 0.1], 1024, error)

    assert (gain.value, gain.bound) == (pytest.approx(value), bound)


def test_a_curve_that_rises_counts_where_it_first_comes_down():
    gain = gains.efficiency_gain([4, 16, 64, 256], [0.4, 0.1, 0.3, 0.05], 1024, 0.2)

    assert gain.value == pytest.approx(1024 / 8)


def test_the_accuracy_gain_is_the_ratio_of_errors():
    assert gains.accuracy_gain(0.5, 0.1) == pytest.approx(5.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: gains.efficiency_gain([], [], 1024, 0.1),
        lambda: gains.efficiency_gain([4], [0.1, 0.2], 1024, 0.1),
        lambda: gains.efficiency_gain([4], [0.0], 1024, 0.1),
        lambda: gains.accuracy_gain(0.1, math.nan),
    ],
)
def test_a_gain_needs_positive_finite_numbers(call):
    with pytest.raises(UserError, match="needs p"):
        call()
