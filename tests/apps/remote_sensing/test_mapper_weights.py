"""Weights of every origin on the encoder of a map or a label, and the networks as a recipe names them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor, nn

from apps.remote_sensing.models import prithvi, softcon
from apps.remote_sensing.models.any_backbone import AnyBackbone
from apps.remote_sensing.models.decoders import FCN, Neck, UperNet
from apps.remote_sensing.models.labeller import Labeller
from apps.remote_sensing.models.mapper import Mapper
from core.checkpoints.exchange import export_weights, write_own
from core.checkpoints.networks import chosen_arguments, instantiate
from core.checkpoints.weights import load_weights, network_from
from core.errors import UserError

SMALL = {"resolution": 16, "frames": 2, "patch": (1, 4, 4), "width": 32, "depth": 4, "heads": 2}
MAE = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
VIT = {"width": 24, "depth": 4, "heads": 2, "patch": 4, "image": 16}
FRESH = ("decoder.*", "head.*")
State = dict[str, Tensor]


def drawn(network: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1, generator=generator)
    return network.eval()


def encoder(seed: int = 5, **changed) -> nn.Module:
    return drawn(prithvi.Prithvi(**{**SMALL, **changed}), seed)


def saved(path: Path, state: State) -> Path:
    torch.save({name: tensor.clone() for name, tensor in state.items()}, path)
    return path


def own(path: Path, network: nn.Module, class_path: str = "x.Y", **arguments) -> Path:
    """Write a checkpoint as a run does."""
    return write_own(network, path, described={"class_path": class_path, "init_args": arguments}, record={})


def same(network: nn.Module, source: nn.Module) -> bool:
    there, here = source.state_dict(), network.state_dict()
    return there.keys() == here.keys() and all(torch.equal(here[name], there[name]) for name in there)


def receivers(part: nn.Module) -> list[tuple[nn.Module, tuple[str, ...]]]:
    """Networks on an encoder, and what starts anew in each."""
    other = type(part)
    build = {
        prithvi.Prithvi: lambda: encoder(9),
        softcon.SoftConViT: lambda: drawn(softcon.SoftConViT(part.bands, **VIT), 9),
        AnyBackbone: lambda: drawn(AnyBackbone(part.name, part.bands, options=part.options), 9),
    }[other]
    return [
        (Mapper(build(), decoder=FCN(4, 1)), FRESH),
        (Mapper(build(), decoder=Neck(4)), FRESH),
        (Labeller(build()), ("head.*",)),
    ]


LAYOUTS = {
    "version 2": lambda state: state,
    "version 1": lambda state: {name.partition(".")[2]: tensor for name, tensor in state.items()},
    "wrapped": lambda state: {f"module.model.{name}": tensor for name, tensor in state.items()},
    "_timm_module.": lambda state: {
        k.replace(".blocks.", "._timm_module.blocks."): v for k, v in state.items()
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_official_files_of_prithvi_reach_the_encoder(layout: str, tmp_path: Path) -> None:
    source = drawn(prithvi.PrithviMAE(**SMALL, **MAE))
    path = saved(tmp_path / "w.pt", LAYOUTS[layout](prithvi.KEY_MAP.to_official(source.state_dict())))

    for network, fresh in receivers(source.encoder):
        load_weights(path, network, reinitialise=fresh)
        assert same(network.encoder, source.encoder)


def test_the_encoder_of_version_2_fine_tuned_is_read_without_its_heads(tmp_path: Path) -> None:
    source = drawn(prithvi.PrithviMAE(**SMALL, **MAE))
    state = prithvi.KEY_MAP.to_official(source.state_dict())
    state = {f"model.{k}": v for k, v in state.items() if k.startswith("encoder.")}
    others = ("decoder.conv.weight", "head.conv.bias", "aux_heads.aux.head.bias")
    path = saved(tmp_path / "w.ckpt", state | {f"model.{name}": torch.ones(2) for name in others})

    for network, fresh in receivers(source.encoder):
        load_weights(path, network, reinitialise=fresh)
        assert same(network.encoder, source.encoder)


def test_without_saying_what_starts_anew_weights_are_refused(tmp_path: Path) -> None:
    source = drawn(prithvi.PrithviMAE(**SMALL, **MAE))
    path = saved(tmp_path / "w.pt", prithvi.KEY_MAP.to_official(source.state_dict()))

    for network, _ in receivers(source.encoder):
        with pytest.raises(UserError, match=r"missing there .*name what shall start anew.*reinitialise"):
            load_weights(path, network)


@pytest.mark.parametrize("auxiliary", [True, False])
def test_version_1_fine_tuned_for_maps_is_read_whole_and_computes_the_same(
    auxiliary: bool, tmp_path: Path
) -> None:
    source = drawn(prithvi.PrithviSegmenter(classes=3, channels=8, **SMALL))
    source.decode_head.convs[0].bn.running_mean.fill_(0.5)
    path = saved(tmp_path / "w.pth", prithvi.KEY_MAP.to_official(source.state_dict()))
    network = Mapper(encoder(statistics="v1"), decoder=Neck(8), outputs=3, auxiliary=auxiliary).eval()
    x = torch.randn(2, 6, 2, 16, 24)

    report = load_weights(path, network)

    assert report.initialised == []
    assert torch.equal(network(x), source(x))
    if auxiliary:
        pairs = zip(network.with_auxiliary(x), source.with_auxiliary(x), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_version_1_fine_tuned_for_maps_also_serves_other_decoders(tmp_path: Path) -> None:
    source = drawn(prithvi.PrithviSegmenter(classes=3, channels=8, **SMALL))
    official = saved(tmp_path / "w.pth", prithvi.KEY_MAP.to_official(source.state_dict()))

    for path in (official, own(tmp_path / "own.ckpt", source)):
        for network, fresh in receivers(source.backbone):
            more = ("auxiliary_head.*",) if path != official and isinstance(network, Mapper) else ()
            load_weights(path, network, reinitialise=(*fresh, *more))
            assert same(network.encoder, source.backbone)


@pytest.mark.parametrize("chunks", ["", "0."])
def test_official_files_of_softcon_reach_the_encoder(chunks: str, tmp_path: Path) -> None:
    source = drawn(softcon.SoftConViT(**VIT))
    state = softcon.KEY_MAP.to_official(source.state_dict())
    path = saved(tmp_path / "w.pth", {k.replace("blocks.", f"blocks.{chunks}"): v for k, v in state.items()})

    for network, fresh in receivers(source):
        load_weights(path, network, reinitialise=fresh)
        assert same(network.encoder, source)


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_files_of_timm_reach_the_encoder(name: str, tmp_path: Path) -> None:
    import timm

    options = {"img_size": 32, "depth": 4, "embed_dim": 48} if name.startswith("vit") else {}
    theirs = drawn(timm.create_model(name, num_classes=7, **options))
    path = saved(tmp_path / "w.pth", theirs.state_dict())

    for network, fresh in receivers(AnyBackbone(name, options=options)):
        load_weights(path, network, reinitialise=fresh)
        body = network.encoder.body.state_dict()
        assert all(torch.equal(tensor, theirs.state_dict()[key]) for key, tensor in body.items())


def holders(part: nn.Module) -> dict[str, nn.Module]:
    return {
        "the encoder alone": part,
        "a label": Labeller(part, outputs=7),
        "a map": Mapper(part, decoder=FCN(4, 1), outputs=7),
        "a map by UperNet": Mapper(part, decoder=UperNet(4), outputs=7),
    }


@pytest.mark.parametrize("holder", ["the encoder alone", "a label", "a map", "a map by UperNet", "an MAE"])
def test_our_own_checkpoints_of_prithvi_serve_each_other(holder: str, tmp_path: Path) -> None:
    mae = drawn(prithvi.PrithviMAE(**SMALL, **MAE))
    source = mae if holder == "an MAE" else holders(mae.encoder)[holder]
    path = own(tmp_path / "own.ckpt", source)

    for network, fresh in receivers(mae.encoder):
        load_weights(path, network, reinitialise=fresh)
        assert same(network.encoder, mae.encoder)


@pytest.mark.parametrize("holder", ["the encoder alone", "a label", "a map", "student and teacher"])
def test_our_own_checkpoints_of_softcon_serve_each_other(holder: str, tmp_path: Path) -> None:
    part = drawn(softcon.SoftConViT(("red", "nir_narrow"), **VIT))
    pair = softcon.Siamese(part, projection=8, hidden=8)
    path = own(tmp_path / "own.ckpt", {"student and teacher": pair, **holders(part)}[holder])

    for network, fresh in receivers(part):
        load_weights(path, network, reinitialise=fresh)
        assert same(network.encoder, part)


def test_a_map_goes_on_whole_and_with_other_classes(tmp_path: Path) -> None:
    source = Mapper(encoder(1), decoder=UperNet(4), outputs=2, auxiliary=True)
    path = own(tmp_path / "own.ckpt", source)
    again, more = (Mapper(encoder(2), decoder=UperNet(4), outputs=n, auxiliary=True) for n in (2, 5))

    load_weights(path, again)
    load_weights(path, more, reinitialise=["head.*", "auxiliary_head.conv_seg.*"])

    assert same(again, source)
    assert same(more.decoder, source.decoder) and more.head.last.weight.shape[0] == 5
    with pytest.raises(UserError, match=r"head.last.weight is .2, 4, 1, 1. there and .5, 4, 1, 1. here"):
        load_weights(path, more)


SWIR_FIRST = ("swir_1", "red", "elevation")


@pytest.mark.parametrize("origin", ["official", "own"])
@pytest.mark.parametrize("kind", [Mapper, Labeller])
def test_bands_are_matched_by_name(origin: str, kind: type, tmp_path: Path) -> None:
    source, fresh = drawn(prithvi.PrithviMAE(**SMALL, **MAE)), encoder(3, bands=SWIR_FIRST)
    drawn_first = fresh.patch_embed.proj.weight.detach().clone()
    network = kind(fresh)
    path = tmp_path / "w.ckpt"
    if origin == "own":
        own(path, source, bands=list(source.encoder.bands))
    else:
        saved(path, prithvi.KEY_MAP.to_official(source.state_dict()))

    load_weights(path, network, reinitialise=FRESH if kind is Mapper else FRESH[1:])

    weight, given = fresh.patch_embed.proj.weight, source.encoder.patch_embed.proj.weight
    assert torch.equal(weight[:, :2], given[:, [4, 2]])
    assert torch.equal(weight[:, 2], drawn_first[:, 2])


def test_bands_of_a_siamese_pre_training_are_matched_by_name(tmp_path: Path) -> None:
    source = softcon.Siamese(drawn(softcon.SoftConViT(("B02", "B04", "B8A"), **VIT)), projection=8, hidden=8)
    inner = {"class_path": "x.Y", "init_args": {"bands": ["B02", "B04", "B8A"]}}
    path = own(tmp_path / "own.ckpt", source, encoder=inner)
    network = Mapper(softcon.SoftConViT(("nir_narrow", "blue"), **VIT))

    load_weights(path, network, reinitialise=FRESH)

    first = source.encoder.patch_embed.weight
    assert torch.equal(network.encoder.patch_embed.weight, first[:, [2, 0]])


def test_another_width_is_refused_with_both_shapes(tmp_path: Path) -> None:
    path = own(tmp_path / "own.ckpt", encoder(width=16), bands=["red"])

    with pytest.raises(UserError, match=r"cls_token is .1, 1, 16. there and .1, 1, 32. here"):
        load_weights(path, Mapper(encoder(bands=SWIR_FIRST)), reinitialise=FRESH)


RECIPE = """
class_path: apps.remote_sensing.models.mapper.Mapper
init_args:
  encoder: {class_path: apps.remote_sensing.models.prithvi.prithvi_tiny, init_args: {width: 32, heads: 2}}
  decoder: {class_path: apps.remote_sensing.models.decoders.UperNet, init_args: {channels: 4}}
  outputs: 3
"""


@pytest.fixture(scope="module")
def parser() -> LightningArgumentParser:
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "network")
    return parser


def test_a_recipe_builds_the_network_by_parser_and_by_checkpoint(
    parser: LightningArgumentParser, tmp_path: Path
) -> None:
    config = parser.parse_object({"network": yaml.safe_load(RECIPE)})
    described = config.network.as_dict()

    built = parser.instantiate(config).network
    again = instantiate(described, where="the test")
    read = network_from(own(tmp_path / "own.ckpt", built, described["class_path"], **described["init_args"]))

    assert type(built) is Mapper and built.chosen == UperNet(channels=4)
    assert repr(again) == repr(built) == repr(read)
    assert same(read, built)
    assert built(torch.randn(1, 6, 1, 64, 64)).shape == (1, 3, 64, 64)


def test_one_word_changes_the_decoder_of_a_recipe(parser: LightningArgumentParser) -> None:
    words = ["--network=apps.remote_sensing.models.mapper.Mapper"]
    words += ["--network.encoder=apps.remote_sensing.models.prithvi.prithvi_tiny", "--network.frames=mean"]
    words += [
        "--network.decoder=apps.remote_sensing.models.decoders.UNet",
        "--network.decoder.channels=[8, 8, 4, 4]",
    ]

    network = parser.instantiate(parser.parse_args(words)).network

    assert network.decoder.channels == 4 and network.frames == "mean"


def test_a_recipe_of_labels_is_built(parser: LightningArgumentParser) -> None:
    size = {"class_path": "apps.remote_sensing.models.softcon.softcon_vits14_s2"}
    inner = {**size, "init_args": {"width": 32, "depth": 2, "heads": 2}}
    described = {
        "class_path": "apps.remote_sensing.models.labeller.Labeller",
        "init_args": {"encoder": inner, "pool": "class"},
    }

    network = parser.instantiate(parser.parse_object({"network": described})).network

    assert network(torch.zeros(1, 13, 1, 28, 28)).shape == (1, 2)


def test_a_short_line_about_nested_networks_shows_only_what_was_chosen(
    parser: LightningArgumentParser,
) -> None:
    described = parser.parse_object({"network": yaml.safe_load(RECIPE)}).network.as_dict()

    found = chosen_arguments(described)

    assert set(found) == {"encoder", "decoder", "outputs"}
    assert found["decoder"]["init_args"] == {"channels": 4}
    assert found["encoder"]["init_args"] == {"frames": 1, "width": 32, "depth": 4, "heads": 2}


def test_a_map_is_exported_under_our_names_and_read_again(tmp_path: Path) -> None:
    described = yaml.safe_load(RECIPE)
    network = drawn(instantiate(described, where="the test"))
    own(tmp_path / "own.ckpt", network, described["class_path"], **described["init_args"])

    export_weights(tmp_path / "own.ckpt", tmp_path / "out", layout="own")

    assert same(network_from(tmp_path / "out"), network)
