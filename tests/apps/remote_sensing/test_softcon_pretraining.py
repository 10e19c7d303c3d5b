"""Student and teacher, their views, and a short pre-training that finds the classes of simulated scenes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from apps.remote_sensing.models.dino.siamese import Siamese, momentum_at
from apps.remote_sensing.models.softcon import SoftConResNet50, SoftConViT
from apps.remote_sensing.tasks.contrastive import ContrastivePretraining
from apps.remote_sensing.tasks.views import cropped, two_dates, two_views
from core.errors import UserError
from core.objectives.masked_autoencoding import random_masking


@dataclass
class Scenes:
    image: torch.Tensor
    label: torch.Tensor


def siamese(**options):
    torch.manual_seed(0)
    encoder = SoftConViT(3, width=24, depth=2, heads=2, patch=4, image=16, layer_scale=1.0)
    return Siamese(encoder, projection=16, hidden=32, **options)


def scenes(count=16, frames=2):
    generator = torch.Generator().manual_seed(0)
    label = torch.nn.functional.one_hot(torch.arange(count) % 4, 9)
    colour = torch.randn(9, 3, generator=generator)[label.argmax(1)]
    noise = 0.3 * torch.randn(count, 3, frames, 16, 16, generator=generator)
    return Scenes(colour[:, :, None, None, None] + noise, label)


def test_the_teacher_starts_as_the_student_and_has_no_gradient():
    network = siamese()
    queries, keys = network(torch.rand(4, 3, 16, 16), torch.rand(4, 3, 16, 16))
    queries.sum().backward()

    same = zip(network.encoder.parameters(), network.teacher["encoder"].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert not keys.requires_grad
    assert all(p.grad is None for p in network.teacher.parameters())


@pytest.mark.parametrize("masking", ["drop", "token"])
def test_every_parameter_of_the_student_that_is_trained_gets_a_gradient(masking):
    network = siamese(masking=masking)

    queries, _ = network(torch.rand(4, 3, 16, 16), torch.rand(4, 3, 16, 16))
    queries.square().sum().backward()

    trained = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
    assert [name for name, grad in trained.items() if grad is None] == []
    assert ("encoder.mask_token" in trained) == (masking == "token")


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_the_teacher_follows_by_one_less_the_momentum(momentum):
    network = siamese(masking="token")
    before = [p.clone() for p in network.teacher.parameters()]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0 if parameter.requires_grad else 0.0)

    network.follow(momentum)

    moved = [now - old for now, old in zip(network.teacher.parameters(), before, strict=True)]
    assert all(torch.allclose(m, torch.full_like(m, 1 - momentum), atol=1e-5) for m in moved)


@pytest.mark.parametrize("masking", ["drop", "token"])
def test_the_student_does_not_see_masked_patches_and_the_teacher_sees_all(masking):
    network = siamese(masking=masking).eval()
    x = torch.rand(2, 3, 16, 16)
    chosen = random_masking(2, 16, 0.5, generator=torch.Generator().manual_seed(0))
    hidden = chosen.mask.unflatten(1, (4, 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]

    queries, keys = network(x, x, masking=chosen)
    other_queries, other_keys = network(x + hidden, x + hidden, masking=chosen)

    assert torch.equal(queries, other_queries)
    assert not torch.equal(keys, other_keys)


def test_a_resnets_student_sees_zeros_instead():
    network = Siamese(SoftConResNet50(2), projection=4, hidden=8).eval()
    seen = []
    network.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))

    network(torch.ones(2, 2, 64, 64), torch.ones(2, 2, 64, 64))

    assert float(seen[0].mean()) == 0.5
    assert seen[0][:, :, :32, :32].flatten(1).std(1).tolist() == [0.0, 0.0]


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_momentum_grows_from_its_first_value_to_its_last(early, late, first):
    early, late = sorted((early, late))

    values = [momentum_at(p, first=first) for p in (0.0, early, late, 1.0)]

    assert values == sorted(values)
    assert (values[0], values[3]) == (pytest.approx(first), pytest.approx(1.0))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9))
def test_views_show_only_what_is_in_the_image(seed, size):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 2, 7, 9, generator=generator)

    view = cropped(x, size=size, numbers=torch.rand(3, 6, generator=generator))

    assert view.shape == (3, 2, size, size)
    assert bool((view.amax((2, 3)) <= x.amax((2, 3)) + 1e-5).all())
    assert bool((view.amin((2, 3)) >= x.amin((2, 3)) - 1e-5).all())


def test_a_view_of_all_the_area_is_the_image_in_one_of_its_eight_positions():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 1, 6, 6, generator=generator)
    turned = [torch.rot90(y, i, (2, 3)) for y in (x, x.flip(3)) for i in range(4)]

    found = set()
    for _ in range(60):
        view = cropped(x, scale=(1.0, 1.0), numbers=torch.rand(1, 6, generator=generator))
        found.add(next(i for i, y in enumerate(turned) if torch.allclose(view, y, atol=1e-5)))

    assert found == set(range(8))


def test_two_different_dates_are_drawn_where_there_are_several():
    x = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(50, 1, 4, 2, 2)

    first, second = two_dates(x)
    only, again = two_views(x[:, :, :1], scale=(1.0, 1.0))

    assert not bool((first == second).any())
    assert set(first[:, 0, 0, 0].tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert torch.equal(only, again)


def test_pre_training_brings_scenes_of_one_class_together():
    data = scenes()
    network = siamese()
    task = ContrastivePretraining(network, optimizer=_adam, momentum=0.9, restore_best=False)

    def apart():
        with torch.no_grad():
            features = torch.nn.functional.normalize(network.encoder.eval()(data.image[:, :, 0]), dim=1)
        alike = (data.label @ data.label.T).bool()
        similarity = features @ features.T
        return float(similarity[alike].mean() - similarity[~alike].mean())

    before = apart()
    network.train()
    trainer = Trainer(
        max_steps=25, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(task, *(DataLoader([data] * n, batch_size=None) for n in (25, 1)))

    assert apart() > before + 0.2
    assert trainer.callback_metrics["val_loss"].isfinite()


def test_what_cannot_be_pre_trained_is_refused():
    with pytest.raises(UserError, match="no teacher"):
        ContrastivePretraining(torch.nn.Linear(1, 1))
    with pytest.raises(UserError, match="must lie in"):
        siamese(mask_ratio=1.0)
    with pytest.raises(UserError, match="drop or token"):
        siamese(masking="zero")
    with pytest.raises(UserError, match="no multi-hot labels"):
        ContrastivePretraining(siamese()).loss(Scenes(torch.rand(2, 3, 1, 16, 16), torch.zeros(2)))
    with pytest.raises(UserError, match="a batch holds one scene"):
        ContrastivePretraining(siamese()).loss(Scenes(torch.rand(1, 3, 1, 16, 16), torch.ones(1, 9)))


def _adam(parameters):
    return torch.optim.AdamW(parameters, lr=3e-3)
