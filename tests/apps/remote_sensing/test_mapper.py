"""Maps and labels on any encoder: shapes, the decoders beside plain transcriptions, dates, mistakes."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from apps.remote_sensing.models.any_backbone import AnyBackbone
from apps.remote_sensing.models.decoders import FCN, Decoder, Linear, Neck, UNet, UperNet
from apps.remote_sensing.models.downstream.encoder_features import reflected
from apps.remote_sensing.models.labeller import Labeller
from apps.remote_sensing.models.mapper import Mapper
from apps.remote_sensing.models.prithvi import Prithvi, prithvi_v1_segmenter
from apps.remote_sensing.models.softcon import SoftConViT
from core.adaptation import LayerDecay, LightDecoder, LinearProbe, LoRA
from core.errors import UserError
from core.optim import parameter_groups

SMALL = {"resolution": 16, "frames": 1, "patch": (1, 4, 4), "width": 32, "depth": 4, "heads": 2}
TIMM_VIT = {"name": "vit_tiny_patch16_224", "options": {"img_size": 32, "depth": 4, "embed_dim": 48}}
ENCODERS = {
    "Prithvi": lambda: Prithvi(**SMALL),
    "oblong patches": lambda: Prithvi(**{**SMALL, "patch": (1, 2, 4)}),
    "SoftCon": lambda: SoftConViT(("red", "nir_narrow"), width=32, depth=4, heads=2, patch=4, image=16),
    "ResNet": lambda: AnyBackbone("resnet10t", ("red", "green", "blue", "thermal")),
    "torchvision": lambda: AnyBackbone("torchvision/resnet18"),
    "timm's transformer": lambda: AnyBackbone(**TIMM_VIT),
}
DECODERS = {
    "FCN": FCN(channels=8, steps=2),
    "Linear": Linear(),
    "Neck": Neck(channels=8, outputs=8),
    "UperNet": UperNet(channels=8),
    "UNet": UNet(channels=(16, 8, 8, 4)),
}
SIZES = [(16, 16), (24, 40), (19, 13)]


def prithvi(**changed) -> Prithvi:
    return Prithvi(**{**SMALL, **changed})


def mapper(decoder: Decoder | None = None, **options) -> Mapper:
    torch.manual_seed(0)
    encoder = options.pop("encoder", None) or prithvi()
    return Mapper(encoder, decoder=decoder or DECODERS["FCN"], **options)


def images(network: nn.Module, *, dates: int = 1, size: tuple[int, int] = (16, 16), count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, len(network.bands), dates, *size, generator=generator)


PAIRS = [(encoder, decoder) for encoder in ("Prithvi", "SoftCon") for decoder in DECODERS]
MORE = [(encoder, decoder) for encoder in list(ENCODERS)[3:] for decoder in ("FCN", "UNet")]


@pytest.mark.parametrize(("encoder", "decoder"), [*PAIRS, *MORE, ("oblong patches", "UperNet")])
def test_every_decoder_maps_every_encoder_at_the_images_own_size(encoder: str, decoder: str) -> None:
    network = mapper(DECODERS[decoder], encoder=ENCODERS[encoder](), outputs=3, auxiliary=True)
    sizes = [(32, 32)] if encoder == "timm's transformer" else SIZES

    found = [network.with_auxiliary(images(network, size=size)) for size in sizes]

    assert [[part.shape for part in pair] for pair in found] == [[(2, 3, *size)] * 2 for size in sizes]


@pytest.mark.parametrize(("encoder", "decoder"), [*PAIRS[:5], ("SoftCon", "UNet"), ("ResNet", "UperNet")])
def test_gradients_reach_every_parameter(encoder: str, decoder: str) -> None:
    options = {"hidden": (8,), "auxiliary": True, "dropout": 0.0}
    network = mapper(DECODERS[decoder], encoder=ENCODERS[encoder](), **options)

    sum(part.square().sum() for part in network.with_auxiliary(images(network, size=(32, 32)))).backward()

    missing = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def idle(network: nn.Module) -> set[str]:
    """Where the encoder has parameters without a gradient."""
    return {".".join(name.split(".")[:3]) for name, p in network.named_parameters() if not p.requires_grad}


def test_what_the_maps_are_not_made_of_needs_no_gradient() -> None:
    codes = {"coordinates": ("time", "location"), "learn_scale": True}
    whole, part = (mapper(Linear(), encoder=prithvi(**codes), layers=[n]) for n in (3, 1))
    pyramid = mapper(Linear(), encoder=AnyBackbone("convnext_atto", options={"depths": (1, 1, 1, 1)}))

    part(images(part), torch.rand(2, 1, 2), torch.rand(2, 2)).sum().backward()
    pyramid(images(pyramid, size=(64, 64))).sum().backward()

    assert idle(whole) == set()
    assert idle(part) == {"encoder.layers.2", "encoder.layers.3", "encoder.norm.weight", "encoder.norm.bias"}
    assert idle(pyramid) == {"encoder.body.head"}
    for network in (part, pyramid):
        assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize("decoder", ["UperNet", "UNet"])
def test_an_encoder_of_one_size_may_have_an_odd_grid(decoder: str) -> None:
    options = {**TIMM_VIT["options"], "img_size": 48}
    network = mapper(DECODERS[decoder], encoder=AnyBackbone(TIMM_VIT["name"], options=options))

    assert network(images(network, size=(48, 48))).shape == (2, 2, 48, 48)


def test_a_pyramid_with_channels_last_is_turned() -> None:
    with torch.device("meta"):
        network = mapper(DECODERS["UNet"], encoder=AnyBackbone("torchvision/swin_t"))

    assert network.layers == (1, 3, 5, 7) and network.decoder.multiple == (32, 32)


def normed(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Convolution, batch norm in evaluation and ReLU, written out."""
    weight = state[f"{name}.conv.weight"]
    x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    mean, var = (state[f"{name}.bn.running_{kind}"][:, None, None] for kind in ("mean", "var"))
    scale, shift = (state[f"{name}.bn.{kind}"][:, None, None] for kind in ("weight", "bias"))
    return torch.relu((x - mean) / torch.sqrt(var + 1e-5) * scale + shift)


def drawn(decoder: Decoder, inputs: tuple[int, ...]) -> tuple[nn.Module, dict[str, Tensor]]:
    """A decoder in float64 and evaluation whose numbers, statistics too, are all different."""
    torch.manual_seed(0)
    network = decoder.build(inputs).double().eval()
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if tensor.ndim == 1 else tensor.normal_(std=0.1)
    return network, network.state_dict()


def test_the_fcn_is_its_formula() -> None:
    network, state = drawn(FCN(channels=6, steps=3), (10,))
    x = h = torch.randn(2, 10, 3, 5, dtype=torch.float64)

    for i in range(3):
        h = F.conv_transpose2d(h, state[f"steps.{i}.0.weight"], state[f"steps.{i}.0.bias"], stride=2)
        h = F.conv2d(h, state[f"steps.{i}.1.weight"], state[f"steps.{i}.1.bias"], padding=1)
        mean, var = h.mean(1, keepdim=True), h.var(1, keepdim=True, unbiased=False)
        scale, shift = (state[f"steps.{i}.2.ln.{kind}"][:, None, None] for kind in ("weight", "bias"))
        h = (h - mean) / torch.sqrt(var + 1e-6) * scale + shift
        h = 0.5 * h * (1 + torch.erf(h / 2**0.5))

    assert network([x]).shape == (2, 6, 24, 40)
    assert (network([x]) - h).abs().max() < 1e-10


def pyramid(state: dict[str, Tensor], maps: list[Tensor]) -> list[Tensor]:
    first, second, third, fourth = maps
    part = "pyramid.fourfold"
    h = F.conv_transpose2d(first, state[f"{part}.0.weight"], state[f"{part}.0.bias"], stride=2)
    statistics = (state[f"{part}.1.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    h = F.gelu(F.batch_norm(h, *statistics))
    h = F.conv_transpose2d(h, state[f"{part}.3.weight"], state[f"{part}.3.bias"], stride=2)
    twice = F.conv_transpose2d(
        second, state["pyramid.twofold.weight"], state["pyramid.twofold.bias"], stride=2
    )
    return [h, twice, third, F.max_pool2d(fourth, 2)]


def resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)


def test_the_upernet_is_its_formula() -> None:
    network, state = drawn(UperNet(channels=6), (8, 8, 8, 8))
    maps = [torch.randn(2, 8, 6, 4, dtype=torch.float64) for _ in range(4)]

    levels = pyramid(state, maps)
    top = levels[3]
    pooled = [
        resized(normed(state, f"pooled.{i}", F.adaptive_avg_pool2d(top, scale)), top)
        for i, scale in enumerate((1, 2, 3, 6))
    ]
    laterals = [normed(state, f"laterals.{i}", levels[i]) for i in range(3)]
    laterals.append(normed(state, "coarsest", torch.cat([top, *pooled], 1)))
    for i in (2, 1, 0):
        laterals[i] = laterals[i] + resized(laterals[i + 1], laterals[i])
    made = [normed(state, f"smooth.{i}", laterals[i]) for i in range(3)] + [laterals[3]]
    wanted = normed(state, "fusion", torch.cat([resized(level, made[0]) for level in made], 1))

    assert network(maps).shape == (2, 6, 24, 16)
    assert (network(maps) - wanted).abs().max() < 1e-10


def test_the_unet_is_its_formula() -> None:
    network, state = drawn(UNet(channels=(8, 6, 4, 2)), (8, 8, 8, 8))
    maps = [torch.randn(2, 8, 4, 6, dtype=torch.float64) for _ in range(4)]

    levels = pyramid(state, maps)
    h = levels[3]
    for i, finer in enumerate([levels[2], levels[1], levels[0], None]):
        h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
        h = h if finer is None else torch.cat([h, finer], 1)
        h = normed(state, f"steps.{i}.1", normed(state, f"steps.{i}.0", h))

    assert network(maps).shape == (2, 2, 32, 48)
    assert (network(maps) - h).abs().max() < 1e-10


@pytest.mark.parametrize("decoder", ["Linear", "UperNet", "UNet"])
def test_one_sample_whose_features_are_one_pixel_can_be_trained_with(decoder: str) -> None:
    network = mapper(DECODERS[decoder]).train()
    x = images(network, size=(4, 4), count=1)

    network(x).sum().backward()

    assert all(bool(b.isfinite().all()) for b in network.buffers())


def test_a_norm_of_the_encoder_with_a_single_value_is_explained() -> None:
    network = mapper(DECODERS["UperNet"], encoder=ENCODERS["torchvision"]())

    with pytest.raises(UserError, match="32x32 pixels leaves a single value"):
        network(images(network, size=(32, 32), count=1))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 17), st.integers(1, 17))
def test_reflection_keeps_the_image_and_mirrors_its_end(
    height: int, width: int, rows: int, columns: int
) -> None:
    x = torch.arange(height * width, dtype=torch.float32).reshape(1, height, width)

    found = reflected(x, (rows, columns))

    assert found.shape[-2] % rows == 0 and found.shape[-1] % columns == 0
    assert found.shape[-2] - height < rows and found.shape[-1] - width < columns
    assert torch.equal(found[:, :height, :width], x)
    more = (0, found.shape[-1] - width, 0, found.shape[-2] - height)
    if more[1] < width and more[3] < height:
        assert torch.equal(found, F.pad(x, more, mode="reflect"))


@pytest.mark.parametrize("frames", ["channels", "mean", "max", "difference"])
@pytest.mark.parametrize("encoder", ["Prithvi", "SoftCon"])
def test_dates_apart_are_the_features_of_single_dates_folded(encoder: str, frames: str) -> None:
    options = {"frames": frames, "dates": 3, "apart": True, "dropout": 0.0}
    network = mapper(Linear(), encoder=ENCODERS[encoder](), **options).eval()
    x = images(network, dates=3)
    alone = [network.encoder.feature_maps(x[:, :, i], layers=[-1])[0] for i in range(3)]
    stacked = torch.stack(alone)
    folded = {
        "channels": torch.cat(alone, dim=1),
        "mean": stacked.mean(0),
        "max": stacked.amax(0),
        "difference": alone[2] - alone[0],
    }[frames]

    wanted = F.interpolate(network.head(network.decoder([folded])), (16, 16), mode="bilinear")

    torch.testing.assert_close(network(x), wanted, rtol=0, atol=1e-6)


def test_dates_together_are_what_the_encoder_makes_of_them() -> None:
    network = mapper(Linear(), encoder=prithvi(frames=3), frames="difference").eval()
    x = images(network, dates=3)
    features = network.encoder.feature_maps(x, layers=[-1], frames="difference")

    wanted = F.interpolate(network.head(network.decoder(features)), (16, 16), mode="bilinear")

    torch.testing.assert_close(network(x), wanted, rtol=1e-5, atol=1e-6)


def test_each_date_apart_is_told_its_own_time_and_place() -> None:
    encoder = prithvi(coordinates=("time", "location"))
    network = mapper(Linear(), encoder=encoder, dates=2, apart=True, frames="channels").eval()
    x = images(network, dates=2)
    time, place = torch.rand(2, 2, 2) * 100, torch.rand(2, 2) * 50
    found = network(x, time=time, location=place)

    alone = [
        encoder.feature_maps(x[:, :, i], layers=[-1], time=time[:, i : i + 1], location=place)[0]
        for i in (0, 1)
    ]
    wanted = network.head(network.decoder([torch.cat(alone, 1)]))

    torch.testing.assert_close(found, F.interpolate(wanted, (16, 16), mode="bilinear"), rtol=0, atol=1e-6)
    assert not torch.equal(found, network(x))


def test_pooled_dates_may_be_more_or_fewer_than_the_network_was_built_for() -> None:
    network = mapper(frames="mean", dates=2)

    assert network(images(network, dates=5)).shape == (2, 2, 16, 16)


def test_four_layers_are_spread_over_a_transformer_and_the_coarsest_sizes_of_a_pyramid() -> None:
    deep = mapper(DECODERS["UperNet"], encoder=prithvi(depth=8))
    own = mapper(DECODERS["UperNet"], encoder=ENCODERS["ResNet"]())

    assert deep.layers == (1, 3, 5, 7) and own.layers == (1, 2, 3, 4)
    assert deep.decoder.pyramid is not None and own.decoder.pyramid is None
    assert deep.decoder.multiple == (8, 8) and own.decoder.multiple == (32, 32)


def test_the_networks_offer_what_their_encoder_reads() -> None:
    encoder = prithvi()

    for network in (mapper(encoder=encoder), Labeller(encoder)):
        assert network.bands == encoder.bands and network.mean == encoder.mean
        assert (network.std, network.scale, network.fill) == (encoder.std, 10_000.0, 0.0001)
        assert list(network.blocks()) == list(encoder.layers)


@pytest.mark.parametrize("pool", ["class", "mean", "max"])
@pytest.mark.parametrize("encoder", ["Prithvi", "SoftCon", "ResNet", "timm's transformer"])
def test_every_encoder_is_pooled_to_labels(encoder: str, pool: str) -> None:
    network = Labeller(ENCODERS[encoder](), outputs=5, pool=pool)
    sizes = [(32, 32)] if encoder == "timm's transformer" else SIZES

    assert all(network(images(network, dates=2, size=size)).shape == (2, 5) for size in sizes)


def test_pooling_is_over_patches_and_dates() -> None:
    encoder = prithvi(frames=2).eval()
    x = images(encoder, dates=2)
    tokens = encoder(x)

    found = {pool: Labeller(encoder, pool=pool).features(x) for pool in ("class", "mean", "max")}

    torch.testing.assert_close(found["class"], tokens[:, 0])
    torch.testing.assert_close(found["mean"], tokens[:, 1:].mean(1))
    torch.testing.assert_close(found["max"], tokens[:, 1:].amax(1))


@pytest.mark.parametrize("encoder", ["Prithvi", "SoftCon", "ResNet"])
@pytest.mark.parametrize("kind", ["map", "label"])
def test_a_network_from_the_meta_device_is_written_completely(encoder: str, kind: str) -> None:
    with torch.device("meta"):
        part = ENCODERS[encoder]()
        network = Labeller(part) if kind == "label" else mapper(DECODERS["UNet"], encoder=part, hidden=(4,))
    network.to_empty(device="cpu")
    for tensor in network.state_dict().values():
        tensor.fill_(3)

    network.reset_parameters()

    assert not any(bool((t == 3).all()) for t in network.state_dict().values() if t.numel() > 1)
    assert network(images(network, size=(32, 32))).isfinite().all()


FRESH = ("decoder.*", "head.*")


@pytest.mark.parametrize("adaptation", [LoRA(rank=2), LightDecoder(), LayerDecay()])
@pytest.mark.parametrize("kind", ["map", "label"])
def test_adaptation_trains_what_is_new(adaptation: object, kind: str) -> None:
    network: nn.Module = Labeller(prithvi()) if kind == "label" else mapper(DECODERS["UperNet"])
    adaptation.prepare(network, FRESH)
    adaptation.apply(network, 0, 0)
    groups = parameter_groups(network, lr=0.1, layer_decay=adaptation.layer_decay)
    before = copy.deepcopy(network.state_dict())

    network(images(network, size=(32, 32))).square().sum().backward()
    torch.optim.SGD(groups, lr=0.1).step()

    changed = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    fresh = {n for n in before if n.startswith(("decoder.", "head.")) and "pyramid.fourfold.0.bias" not in n}
    fresh = {n for n in fresh if n in dict(network.named_parameters())}
    assert {"head.last.weight", "head.last.bias"} & changed or {"head.weight", "head.bias"} <= changed
    assert fresh <= changed
    frozen = {n for n in changed if n.startswith("encoder.layers.") and not n.endswith(("lora_a", "lora_b"))}
    assert isinstance(adaptation, LayerDecay | LoRA) or not frozen


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: mapper(frames="chanels"), "did you mean 'channels'"),
        (lambda: mapper(encoder=nn.Linear(2, 2)), "needs an encoder with feature_maps.*Linear has none"),
        (lambda: Labeller(nn.Linear(2, 2)), "needs an encoder with feature_maps"),
        (lambda: mapper(layers=[9]), "layers name 9; Prithvi has 4, 0 to 3"),
        (lambda: mapper(layers=[4], encoder=ENCODERS["SoftCon"]()), "layers name 4; SoftConViT has 4"),
        (lambda: mapper(layers=[0, 1]), "FCN takes 1 layer"),
        (lambda: mapper(UperNet(), layers=[1]), "UperNet takes 4 layer"),
        (lambda: mapper(UperNet(), encoder=prithvi(depth=2)), "takes 4 layers, and Prithvi has 2"),
        (lambda: mapper(outputs=0), "outputs is 0"),
        (lambda: mapper(dates=0), "dates is 0"),
        (lambda: mapper(hidden=(0,)), "hidden is 0"),
        (lambda: mapper(dropout=1.0), "dropout is 1.0"),
        (lambda: mapper(frames="difference"), "a difference needs at least 2 dates"),
        (lambda: mapper(encoder=prithvi(frames=2, patch=(2, 4, 4)), apart=True), "spans 2 dates"),
        (lambda: mapper(encoder=prithvi(frames=2, patch=(2, 4, 4)), dates=3), "multiple of the 2 dates"),
        (lambda: mapper()(torch.zeros(1, 6, 2, 16, 16)), "have 2 date.* built for 1"),
        (
            lambda: mapper(frames="difference", dates=2)(torch.zeros(1, 6, 1, 16, 16)),
            "have 1 date.* built for 2",
        ),
        (lambda: mapper()(torch.zeros(6, 16, 16)), "it needs .B, C, T, H, W."),
        (lambda: mapper()(torch.zeros(1, 4, 16, 16)), "4 bands and has 6"),
        (lambda: mapper().with_auxiliary(torch.zeros(1, 6, 16, 16)), "auxiliary: true"),
        (
            lambda: mapper(encoder=AnyBackbone(**TIMM_VIT))(torch.zeros(1, 3, 64, 64)),
            "does not take images of 64x64",
        ),
        (lambda: Labeller(prithvi(), outputs=0), "outputs is 0"),
        (lambda: Labeller(prithvi(), pool="men"), "did you mean 'mean'"),
        (lambda: Labeller(prithvi(), dropout=-0.1), "dropout is -0.1"),
        (lambda: FCN(steps=0), "FCN: steps is 0"),
        (lambda: UNet(channels=(8, 8)), "UNet: channels are"),
        (lambda: UperNet(scales=()), "UperNet: scales are"),
        (lambda: Neck(outputs=0), "Neck: outputs is 0"),
    ],
)
def test_mistakes_are_one_sentence(wrong, message: str) -> None:
    with pytest.raises(UserError, match=message):
        wrong()


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
def test_a_decoder_is_data(decoder: Decoder) -> None:
    assert dataclasses.replace(decoder) == decoder
    assert decoder.build([16] * decoder.layers_wanted).channels == (decoder.channels_out or 16)


def test_a_light_decoder_leaves_the_whole_encoder_alone() -> None:
    network = Mapper(prithvi(), decoder=FCN(channels=8, steps=1))
    LightDecoder().prepare(network)
    trained = {name.partition(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {"decoder", "head"}


def test_a_linear_probe_refuses_a_decoder_that_would_stay_as_drawn() -> None:
    network = Mapper(prithvi(), decoder=FCN(channels=8, steps=1))
    with pytest.raises(UserError, match="begins anew and would stay as drawn"):
        LinearProbe().prepare(network, ["decoder.*", "head.*"])


def test_a_linear_probe_trains_the_norm_before_it() -> None:
    network = Mapper(prithvi(), decoder=Linear())
    LinearProbe().prepare(network, ["decoder.*", "head.*"])
    trained = {name.partition(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {"decoder", "head"}


def test_a_linear_probe_of_version_1_is_the_head_that_predicts() -> None:
    network = prithvi_v1_segmenter(resolution=32, width=32, depth=1, heads=2, outputs=8, channels=8)
    LinearProbe().prepare(network)
    trained = {name.rpartition(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {"decode_head.conv_seg"}
