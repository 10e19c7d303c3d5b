"""Light decoders: the recorded case, the published size, and training that leaves the backbone as it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from apps.weather.batch import Grid, States, Variables, WeatherBatch, WeatherFacts
from apps.weather.data.scaling import Scaling
from apps.weather.models.aurora import Aurora
from apps.weather.models.aurora.settings import PerceiverShape, SwinShape
from apps.weather.models.forecast import rollout
from apps.weather.models.light_decoder import KEY_MAP, LatentDecoders, LightlyDecoded
from apps.weather.tasks import KeptLatents, LightDecoding
from core.checkpoints.weights import load_weights
from core.errors import UserError
from core.parity import run_case

INPUTS = Variables(("2t", "msl"), ("z",), (500.0, 850.0), ("lsm",))
TARGETS = Variables(("tp", "swvl1"))
SHAPE = (8, 16)


@pytest.fixture
def network() -> LightlyDecoded:
    """A very small Aurora whose blocks are no identities, with decoders of two variables."""
    swin = SwinShape(
        encoder_depths=(2, 2),
        encoder_heads=(1, 2),
        decoder_depths=(2, 2),
        decoder_heads=(2, 1),
        window=(2, 2, 4),
    )
    aurora = Aurora(
        surface=INPUTS.surface,
        static=INPUTS.static,
        atmospheric=INPUTS.atmospheric,
        patch=2,
        width=16,
        swin=swin,
        perceiver=PerceiverShape(heads=2),
    )
    with torch.no_grad():
        for parameter in aurora.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return LightlyDecoded(aurora, TARGETS.surface, hidden=(12, 12, 8))


@pytest.fixture
def batch() -> WeatherBatch:
    """Three samples in physical units; the sea has no soil water."""

    def states(steps: int, variables: Variables) -> States:
        atmospheric = (len(variables.atmospheric), len(variables.levels))
        return States(
            torch.randn(3, steps, len(variables.surface), *SHAPE),
            torch.randn(3, steps, *atmospheric, *SHAPE),
        )

    targets = states(2, TARGETS)
    targets.surface[:, :, 0] = targets.surface[:, :, 0].abs() * 1e-3
    targets.surface[:, :, 1, :, :5] = torch.nan
    return WeatherBatch(
        inputs=states(2, INPUTS),
        static=torch.rand(1, 1, *SHAPE).expand(3, 1, *SHAPE),
        targets=targets,
        time=torch.tensor([0, 21600, 43200]),
        variables=INPUTS,
        target_variables=TARGETS,
        grid=Grid(np.linspace(60, 46, 8), np.linspace(0, 30, 16)),
        step=6.0,
    )


def facts(batch: WeatherBatch, **changes: Any) -> WeatherFacts:
    names = (*INPUTS.names, *TARGETS.names, "static_lsm")
    return replace(
        WeatherFacts(
            variables=INPUTS,
            target_variables=TARGETS,
            statistics={name: (0.1, 1.5) for name in names},
            latitude=tuple(batch.grid.latitude),
            longitude=tuple(batch.grid.longitude),
            transforms={"tp": "log_amount"},
        ),
        **changes,
    )


@pytest.fixture
def task(network: LightlyDecoded, batch: WeatherBatch) -> LightDecoding:
    return prepared(LightDecoding(network), batch)


def prepared(task: LightDecoding, batch: WeatherBatch) -> LightDecoding:
    task.normaliser.facts = facts(batch)
    task.configure_model()
    return task.eval()


def trained(task: LightDecoding, batch: WeatherBatch, steps: int = 3) -> list[float]:
    optimizer = torch.optim.AdamW(task.network.decoders.parameters(), lr=1e-3)
    losses = []
    for step in range(steps):
        task.train()
        task.adaptation.apply(task.network, step, 0)
        optimizer.zero_grad()
        loss = task.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def calls(network: LightlyDecoded, monkeypatch: pytest.MonkeyPatch) -> Iterator[WeatherBatch]:
    seen: list[WeatherBatch] = []
    compute = network.backbone.backbone_tokens
    monkeypatch.setattr(
        network.backbone, "backbone_tokens", lambda batch: (seen.append(batch), compute(batch))[1]
    )
    return seen


def test_the_recorded_case_is_met(shared: Path) -> None:
    report = run_case(shared / "parity" / "aurora_decoders" / "mlp_tiny.json")
    assert report.passed, str(report)


def test_a_variable_has_the_published_parameters_and_names() -> None:
    decoders = LatentDecoders(["tp", "e"])
    assert sum(parameter.numel() for parameter in decoders.parameters()) == 2 * 922_896
    assert set(KEY_MAP.to_official(decoders.state_dict())) == {
        f"surf_heads.{name}.{place}.{leaf}"
        for name in ("tp", "e")
        for place in (0, 3, 6, 9)
        for leaf in ("weight", "bias")
    }


def test_points_of_a_patch_stand_row_by_row() -> None:
    decoders = LatentDecoders(["tp"], width=4, patch=2, hidden=[4])
    last = decoders.surf_heads["tp"][-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.arange(4.0))
    fields = decoders(torch.randn(1, 6, 4), columns=6)
    assert torch.equal(fields[0, 0, :2], torch.tensor([[0.0, 1, 0, 1, 0, 1], [2, 3, 2, 3, 2, 3]]))
    assert fields.shape == (1, 1, 4, 6)


def test_training_leaves_the_backbone_bit_by_bit(task: LightDecoding, batch: WeatherBatch) -> None:
    before = {name: one.clone() for name, one in task.network.backbone.state_dict().items()}
    with torch.no_grad():
        forecast = task.network.advance(task.scaling.normalised(batch))
    losses = trained(task, batch, steps=8)

    assert losses[-1] < losses[0]
    assert not task.network.backbone.training and task.network.decoders.training
    after = task.network.backbone.state_dict()
    assert all(torch.equal(one, after[name]) for name, one in before.items())
    assert all(parameter.grad is None for parameter in task.network.backbone.parameters())
    with torch.no_grad():
        again = task.network.advance(task.scaling.normalised(batch))
    assert torch.equal(again.surface, forecast.surface)


def test_the_loss_is_the_mean_over_variables_where_there_are_targets(
    task: LightDecoding, batch: WeatherBatch
) -> None:
    single = replace(batch, targets=batch.targets.at(slice(1)))
    scaled = task.scaling.normalised(single)
    decoded = task.network.decoded(scaled).surface
    error = (decoded - scaled.targets.surface).abs()
    expected = torch.stack([error[:, :, 0].mean(), error[:, :, 1, :, 5:].mean()]).mean()

    torch.testing.assert_close(task.loss(single), expected)


def test_a_roll_out_decodes_the_latents_of_each_step(task: LightDecoding, batch: WeatherBatch) -> None:
    network, scaling = task.network, task.scaling
    with torch.no_grad():
        predicted = task.predicted(batch, 2)
        first = next(rollout(network.backbone, replace(batch, targets=None), scaling, 1))
        later = replace(
            batch,
            inputs=batch.inputs.at(slice(1, None)).then(first),
            targets=None,
            time=batch.time + 21600,
            rollout_step=1,
        )
        second = scaling.physical(network.decoded(scaling.normalised(later)), TARGETS)

    torch.testing.assert_close(predicted.surface[:, 1:], second.surface)
    assert predicted.surface.shape == (3, 2, 2, *SHAPE)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 0.0), ("float16", 2e-3)])
def test_a_second_epoch_reads_the_latents_of_the_first(
    network: LightlyDecoded,
    batch: WeatherBatch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    tolerance: float,
) -> None:
    kept = prepared(LightDecoding(network, latents=KeptLatents(str(tmp_path), precision)), batch)
    without = prepared(LightDecoding(network), batch)
    single = replace(batch, targets=batch.targets.at(slice(1)))
    expected = without.loss(single)
    seen = calls(network, monkeypatch)
    part = kept.loss(single.select([0, 1])), len(seen)
    first = kept.loss(single)
    computed = [len(one) for one in seen]
    second = kept.loss(single)

    assert part[1] == 1 and computed == [2, 1] and len(seen) == 2
    torch.testing.assert_close(first, expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(first, second) and len(list(tmp_path.rglob("*.npy"))) == 3


def test_other_samples_and_other_weights_have_latents_of_their_own(
    network: LightlyDecoded, batch: WeatherBatch, tmp_path: Path
) -> None:
    latents = KeptLatents(str(tmp_path))
    single = replace(batch, targets=batch.targets.at(slice(1)))
    prepared(LightDecoding(network, latents=latents), batch).loss(single)
    surface = single.inputs.surface.clone()
    surface[1, 0, 0, 0, 0] += 1.0
    other = replace(single, inputs=States(surface, single.inputs.atmospheric))
    prepared(LightDecoding(network, latents=latents), batch).loss(other)
    assert len(list(tmp_path.rglob("*.npy"))) == 4

    with torch.no_grad():
        next(network.backbone.parameters()).add_(0.1)
    prepared(LightDecoding(network, latents=latents), batch).loss(single)
    assert len(list(tmp_path.rglob("*.npy"))) == 7


def test_a_damaged_file_is_computed_anew(
    network: LightlyDecoded, batch: WeatherBatch, tmp_path: Path
) -> None:
    single = replace(batch, targets=batch.targets.at(slice(1)))
    task = prepared(LightDecoding(network, latents=KeptLatents(str(tmp_path))), batch)
    expected = task.loss(single)
    file = next(tmp_path.rglob("*.npy"))
    file.write_bytes(file.read_bytes()[:100])

    assert torch.equal(task.loss(single), expected)


def test_weights_of_a_backbone_alone_are_its_own(network: LightlyDecoded) -> None:
    weights = {name: one + 1.0 for name, one in network.backbone.state_dict().items()}
    load_weights(weights, network, reinitialise=["decoders.*"])

    state: dict[str, Tensor] = network.backbone.state_dict()
    assert all(torch.equal(one, state[name]) for name, one in weights.items())


def test_data_that_do_not_fit_are_refused(task: LightDecoding, batch: WeatherBatch) -> None:
    task.check_facts(facts(batch))
    with pytest.raises(UserError, match=r"decoders' variables are tp, swvl1 and the data's targets e;"):
        task.check_facts(facts(batch, target_variables=Variables(("e",))))


def test_a_network_without_latents_is_refused() -> None:
    with pytest.raises(UserError, match="Linear has no backbone_tokens"):
        LightlyDecoded(torch.nn.Linear(2, 2), ["tp"])
    with pytest.raises(UserError, match="Linear has no light decoders"):
        LightDecoding(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="must be float32 or float16"):
        KeptLatents("folder", "int8")


def test_scales_of_transformed_targets_lead_back() -> None:
    scaling = Scaling({"tp": (2.2, 1.94)}, {"tp": "log_amount"})
    states = States(torch.rand(1, 1, 1, 4, 4) * 1e-2, torch.zeros(1, 1, 0, 0, 4, 4))
    variables = Variables(("tp",))
    back = scaling.physical(scaling.scaled(states, variables), variables)
    torch.testing.assert_close(back.surface, states.surface, rtol=1e-4, atol=1e-8)
