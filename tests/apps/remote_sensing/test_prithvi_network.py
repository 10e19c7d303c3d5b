"""What Prithvi computes: grids, frames, dates and places, gaps, masking, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.remote_sensing.models.prithvi import Prithvi, PrithviMAE, prithvi_gap_filling
from apps.remote_sensing.tasks.gap_scores import gap_scores
from core.backbones.vit import EncoderBlock, full_attention
from core.errors import UserError

SMALL = {"resolution": 16, "frames": 2, "patch": (1, 4, 4), "width": 32, "depth": 3, "heads": 2}
DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
TL = {"coordinates": ("time", "location"), "learn_scale": True}


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def encoder() -> Prithvi:
    torch.manual_seed(0)
    return Prithvi(**SMALL, **TL).eval()


@pytest.fixture(scope="module")
def autoencoder() -> PrithviMAE:
    torch.manual_seed(0)
    return PrithviMAE(**SMALL, **DECODER).eval()


def test_features_of_the_last_block_alone_are_normed(encoder: Prithvi) -> None:
    x = images(2, 6, 2, 16, 16)

    every, chosen = encoder.features(x), encoder.features(x, layers=(0, -1))

    assert [f.shape for f in every] == [(2, 33, 32)] * 3
    assert torch.equal(chosen[0], every[0])
    assert torch.equal(chosen[1], every[2])
    assert torch.equal(every[2], encoder(x))
    assert torch.allclose(every[2].mean(-1), torch.zeros(2, 33), atol=1e-5)


@pytest.mark.parametrize("grid", [(1, 3, 5), (2, 5, 3), (3, 1, 15), (2, 4, 4)])
def test_maps_have_the_true_grid(encoder: Prithvi, grid: tuple[int, int, int]) -> None:
    t, h, w = grid
    x = images(2, 6, t, 4 * h, 4 * w)

    (stacked,) = encoder.feature_maps(x, layers=[1])
    (tokens,) = encoder.features(x, layers=[1])

    assert stacked.shape == (2, t * 32, h, w)
    frame, row, column = t - 1, h - 1, w // 2
    token = tokens[:, 1 + (frame * h + row) * w + column]
    assert torch.equal(stacked[:, frame * 32 :, row, column], token)


def test_frames_are_stacked_or_pooled(encoder: Prithvi) -> None:
    x = images(1, 6, 2, 16, 16)
    stacked = encoder.feature_maps(x, layers=[2])[0].view(1, 2, 32, 4, 4)

    pooled = {
        how: encoder.feature_maps(x, layers=[2], frames=how)[0] for how in ("mean", "max", "difference")
    }

    assert torch.allclose(pooled["mean"], stacked.mean(1))
    assert torch.equal(pooled["max"], stacked.amax(1))
    assert torch.equal(pooled["difference"], stacked[:, 1] - stacked[:, 0])
    with pytest.raises(UserError, match="did you mean 'mean'"):
        encoder.feature_maps(x, layers=[2], frames="means")


def test_dates_are_told_of_any_number_of_frames(encoder: Prithvi) -> None:
    x, time = images(1, 6, 3, 16, 16), torch.tensor([[[2020.0, 10], [2020, 20], [2021, 30]]])

    told, untold = encoder(x, time), encoder(x)

    assert told.shape == untold.shape == (1, 49, 32)
    assert not torch.allclose(told, untold)


def test_what_is_unknown_adds_nothing(encoder: Prithvi) -> None:
    x, time, location = images(2, 6, 2, 16, 16), torch.rand(2, 2, 2) + 2000.0, torch.rand(2, 2)
    time[1], location[1] = torch.nan, torch.nan

    made = encoder(x, time, location)

    assert torch.allclose(made[1], encoder(x)[1], atol=1e-6)
    assert torch.allclose(made[0], encoder(x[:1], time[:1], location[:1])[0], atol=1e-5)


def test_a_single_frame_needs_no_frame_axis() -> None:
    network = Prithvi(**{**SMALL, "frames": 1}).eval()
    x = images(2, 6, 16, 16)

    assert torch.equal(network(x), network(x[:, :, None]))
    assert network.feature_maps(x, layers=[0])[0].shape == (2, 32, 4, 4)


@settings(max_examples=10, deadline=None)
@given(rows=st.integers(0, 3), columns=st.integers(0, 3))
def test_pixels_behind_the_last_whole_patch_are_left_out(encoder: Prithvi, rows: int, columns: int) -> None:
    x = images(1, 6, 2, 16 + rows, 16 + columns)

    assert torch.equal(encoder(x), encoder(x[..., :16, :16]))


def test_masking_none_gives_the_features_of_all(autoencoder: PrithviMAE) -> None:
    x = images(2, 6, 2, 16, 16)

    out = autoencoder(x, mask_ratio=0.0, noise=torch.arange(32.0).expand(2, -1))

    assert not out.mask.any()
    assert out.loss == 0.0
    plain = autoencoder.encoder.encode(x, masking=out.masking)
    assert torch.allclose(plain, autoencoder.encoder(x), atol=1e-5)


def test_the_loss_is_the_squared_error_of_removed_pixels(autoencoder: PrithviMAE) -> None:
    x = images(2, 6, 2, 16, 16)

    out = autoencoder(x, generator=torch.Generator().manual_seed(1))

    removed = autoencoder.mask_image(out.mask, out.grid)[:, None].expand_as(x)
    made = autoencoder.image(out.prediction, out.grid)
    assert out.mask.sum(1).tolist() == [24, 24]
    assert torch.allclose(out.loss, (made - x)[removed].square().mean(), atol=1e-6)


def test_removed_pixels_are_never_seen(autoencoder: PrithviMAE) -> None:
    x, other = images(1, 6, 2, 16, 16), images(1, 6, 2, 16, 16, seed=1)
    gaps = torch.zeros(1, 1, 2, 16, 16)
    gaps[:, :, 1, 3:9, 5:12] = 1

    out = autoencoder(x, gaps=gaps)
    hidden = autoencoder.mask_image(out.mask, out.grid)[:, None]
    changed = autoencoder(torch.where(hidden, other, x), gaps=gaps)

    assert torch.equal(out.prediction, changed.prediction)
    assert bool(hidden.expand(-1, 1, -1, -1, -1)[gaps > 0].all())
    assert not out.mask[:, :16].any()


def test_gaps_of_different_sizes_in_a_batch_are_filled_as_alone(autoencoder: PrithviMAE) -> None:
    x, gaps = images(3, 6, 2, 16, 16), torch.zeros(3, 1, 2, 16, 16)
    gaps[0, :, 0, :9], gaps[2, :, 1, 2, 3] = 1, 1

    together = autoencoder(x, gaps=gaps)
    alone = [autoencoder(x[i : i + 1], gaps=gaps[i : i + 1]).prediction[0] for i in range(3)]

    assert together.mask.sum(1).tolist() == [12, 0, 1]
    assert torch.allclose(together.prediction, torch.stack(alone), atol=1e-5)


def test_the_published_gap_program_counts_in_the_first_sample(autoencoder: PrithviMAE) -> None:
    x, gaps = images(2, 6, 2, 16, 16), torch.zeros(2, 6, 2, 16, 16)
    gaps[0, :, 0], gaps[1, :, 1, 0, 0] = 1, 1

    assert autoencoder(x, gaps=gaps, count_in_first=True).mask.sum(1).tolist() == [16, 16]


def test_a_perfect_filling_scores_one_and_zero() -> None:
    x, gaps = images(1, 6, 2, 16, 16), torch.zeros(1, 1, 2, 16, 16)
    gaps[..., 4:9, 4:9] = 1
    with torch.device("meta"):
        network = prithvi_gap_filling()
    constants = {"mean": network.encoder.mean, "std": network.encoder.std, "scale": network.encoder.scale}

    perfect = gap_scores(x, x, gaps, **constants)
    outside = gap_scores(x + (1 - gaps), x, gaps, **constants)
    off = gap_scores(x + 1, x, gaps, **constants)

    assert perfect.ssim == pytest.approx(1.0)
    assert perfect.mae == perfect.mse == outside.mae == 0.0
    assert off.mae == pytest.approx(sum(network.encoder.std) / 6 * 1e-4, rel=1e-5)


def test_statistics_go_with_the_weights_and_are_unknown_for_other_bands() -> None:
    first = Prithvi(**SMALL, statistics="v1")
    other = Prithvi(**SMALL, bands=("red", "vv"))

    assert first.mean[0] == 775.2290211032589
    assert first.std[5] == 1154.505683480695
    assert other.mean[0] == 1433.0
    assert math.isnan(other.std[1])


@pytest.mark.parametrize("options", [{}, TL])
def test_a_network_from_the_meta_device_equals_a_fresh_one_in_all_buffers(options: dict) -> None:
    with torch.device("meta"):
        network = PrithviMAE(**SMALL, **DECODER, **options)
    network.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.fill_(torch.nan)

    network.reset_parameters()

    fresh = PrithviMAE(**SMALL, **DECODER, **options)
    assert not any(tensor.isnan().any() for tensor in network.state_dict().values())
    assert all(torch.equal(buffer, dict(fresh.named_buffers())[k]) for k, buffer in network.named_buffers())
    assert network.encoder.cls_token.std() < 0.1
    assert len(list(network.blocks())) == 4


def test_every_parameter_gets_a_gradient() -> None:
    network = PrithviMAE(**SMALL, **DECODER, **TL)

    network(images(2, 6, 2, 16, 16), torch.rand(2, 2, 2), torch.rand(2, 2)).loss.backward()

    assert [name for name, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("length", [7, 450])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("onednn", [False, True])
def test_attention_is_the_same_by_every_kernel(
    length: int, masked: bool, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.backbones.vit._through_onednn", lambda: onednn)
    query, key, value = (images(2, 3, length, 8, seed=seed).requires_grad_() for seed in range(3))
    mask = (torch.arange(length) < length - 2).expand(2, 1, 1, -1) if masked else None
    logits = query @ key.transpose(-1, -2) / 8**0.5
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    wanted = logits.softmax(-1) @ value

    made = full_attention(query, key, value, mask=mask)

    assert torch.allclose(made, wanted, atol=1e-5)
    ours, theirs = (torch.autograd.grad(out.square().sum(), (query, key, value)) for out in (made, wanted))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(ours, theirs, strict=True))


def test_stochastic_depth_leaves_whole_samples_out_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    block, x = EncoderBlock(8, 2, drop_path=0.5), images(1, 3, 8).expand(400, -1, -1)

    made = block.train()(x) - x

    untouched = (made == 0).flatten(1).all(1).float().mean()
    assert untouched == pytest.approx(0.25, abs=0.08)
    assert torch.equal(block.eval()(x), EncoderBlock.forward(block, x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 24, "heads": 2}, "multiple of 16"),
        ({"heads": 5}, "heads must divide"),
        ({"patch": (3, 4, 4)}, "3 frames of 2"),
        ({"bands": ("red", "red")}, "each must be named once"),
        ({"coordinates": ("times",)}, "did you mean 'time'"),
        ({"coordinates": ("time",), "patch": (2, 4, 4)}, "patches of one frame"),
        ({"statistics": "gap_fill"}, "did you mean 'gap_filling'"),
        ({"depth": 0}, "depth is 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Prithvi(**{**SMALL, **options})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, a: e(images(1, 5, 2, 16, 16)), "given 5 bands and has 6"),
        (lambda e, a: e(images(1, 6, 16, 16)), "networks of one frame"),
        (lambda e, a: e(images(1, 6, 2, 3, 16)), "pad them"),
        (lambda e, a: e(images(1, 6, 2, 16, 16), torch.zeros(1, 3, 2)), "time has the shape"),
        (lambda e, a: e(images(1, 6, 2, 16, 16), None, torch.zeros(1, 3)), "location has the shape"),
        (lambda e, a: e.features(images(1, 6, 2, 16, 16), layers=[3]), "0 to 2"),
        (lambda e, a: a(images(1, 6, 2, 18, 16)), "multiples of its patch"),
        (lambda e, a: a(images(1, 6, 2, 16, 16), mask_ratio=0.99), "leaves none"),
        (lambda e, a: a(images(1, 6, 2, 16, 16), gaps=torch.ones(1, 1, 2, 16, 16)), "no token of a sample"),
    ],
)
def test_input_that_does_not_fit_is_refused_in_one_sentence(
    encoder: Prithvi, autoencoder: PrithviMAE, call, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        call(encoder, autoencoder)
