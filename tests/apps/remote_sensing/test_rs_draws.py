"""What is drawn for a scene depends on its name, the epoch and the seed: not on the batch it comes in."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.remote_sensing.batch import SceneBatch
from apps.remote_sensing.models.prithvi import PrithviMAE
from apps.remote_sensing.tasks.autoencoding import GapFilling, Pretraining
from core.data.randomness import draws
from core.errors import UserError


def scenes(count: int = 6) -> SceneBatch:
    """Return scenes of two dates with names, dates and places."""
    generator = torch.Generator().manual_seed(0)
    return SceneBatch(
        image=torch.randn(count, 6, 2, 16, 16, generator=generator),
        label=None,
        valid=torch.ones(count, 2, 16, 16, dtype=torch.bool),
        time=torch.tensor([[2018.0, 9.0], [2018.0, 99.0]]).expand(count, 2, 2),
        location=torch.tensor([[50.0, 8.0]]).expand(count, 2),
        names=tuple(f"scene {i}" for i in range(count)),
    )


def task(**options: Any) -> Pretraining:
    """Return a small pre-training that knows dates and places."""
    torch.manual_seed(0)
    network = PrithviMAE(
        resolution=16, frames=2, patch=(1, 4, 4), width=16, depth=1, heads=2, decoder_width=16,
        decoder_depth=1, decoder_heads=2, coordinates=("time", "location"),
    )  # fmt: skip
    return Pretraining(network, **options)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)), st.integers(1, 6))
def test_an_evaluation_removes_the_same_patches_in_any_batch(order: list[int], size: int) -> None:
    module, batch = task().eval(), scenes()
    with torch.no_grad():
        whole = module.reconstructed(batch)
        part = module.reconstructed(batch.select(order[:size]))
    rows = torch.tensor(order[:size])
    assert torch.equal(part.mask, whole.mask[rows])
    assert torch.allclose(part.prediction, whole.prediction[rows], atol=1e-5)


def test_each_scene_epoch_and_seed_draws_anew_and_names_alone_count_in_an_evaluation() -> None:
    batch, module = scenes(), task()
    masks = {}
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        given_ = SimpleNamespace(datamodule=SimpleNamespace(seed=seed), current_epoch=epoch)
        module._trainer = given_  # type: ignore[assignment]
        trained, evaluated = (draws(module.train(mode), batch, "it", 9)[0] for mode in (True, False))
        masks[seed, epoch] = trained
        assert torch.equal(evaluated, draws(task().eval(), batch, "it", 9)[0])
        assert not torch.equal(evaluated, trained)
        assert not torch.equal(trained, draws(module.train(), batch, "other", 9)[0])
    every = torch.cat(list(masks.values()))
    assert len({tuple(row) for row in every.tolist()}) == 18


@pytest.mark.parametrize("kept", ["time", "location"])
def test_dates_and_locations_are_kept_back_of_the_same_scenes_in_any_batch(kept: str) -> None:
    module, batch = task(**{"drop_time": 0.0, "drop_location": 0.0, f"drop_{kept}": 0.5}).train(), scenes(40)
    seen: list[torch.Tensor] = []

    def hook(_: Any, given_: Any, __: Any = None) -> None:
        seen.append(given_[1 if kept == "time" else 2].isnan().flatten(1).any(1))

    module.network.register_forward_pre_hook(hook)
    module.loss(batch)
    for row in range(0, 40, 8):
        module.loss(batch.select(range(row, row + 8)))
    assert 8 < int(seen[0].sum()) < 32
    assert torch.equal(seen[0], torch.cat(seen[1:]))
    module.eval().loss(batch)
    assert not bool(seen[-1].any())


def test_a_scene_that_clouds_hide_wholly_is_named() -> None:
    module, batch = GapFilling(task().network), scenes(3)
    gaps = torch.zeros(3, 2, 16, 16, dtype=torch.bool)
    gaps[1] = True
    with pytest.raises(UserError, match=r"every patch of scene 1, .*data\.source\.most"):
        module.loss(replace(batch, gaps=gaps))
    gaps[1, 0] = False
    assert module.loss(replace(batch, gaps=gaps)).isfinite()


def test_filling_gaps_has_no_share_of_patches_and_no_fixed_work() -> None:
    with pytest.raises(UserError, match=r"model\.mask_ratio is 0\.5, .*leave it out"):
        GapFilling(task().network, mask_ratio=0.5)
    assert GapFilling(task().network, mask_ratio=None).flops_per_sample() is None
