"""Loading weights: strict, in both layouts, from every kind of source."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from core.checkpoints.exchange import export_weights
from core.checkpoints.files import write_checkpoint
from core.checkpoints.keymap import KeyMap, Rename, Reshape
from core.checkpoints.networks import instantiate
from core.checkpoints.sources import read_weights
from core.checkpoints.weights import load_weights, network_from
from core.errors import UserError

KEY_MAP = KeyMap(
    renames=(
        Rename("model.proj.{p}", "body.{p}"),
        Rename("lm_head.{p}", "head.{p}"),
        Rename("norm_mean", "mean"),
    ),
    reshapes=(Reshape("body.weight", to_ours=torch.t, to_official=torch.t),),
)


class Small(nn.Module):
    """Two layers and a buffer; official names differ and one matrix is transposed there."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.head = nn.Linear(4, outputs)
        self.register_buffer("mean", torch.zeros(3))


def official(seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = {
        "model.proj.weight": (3, 4),
        "model.proj.bias": (4,),
        "lm_head.weight": (2, 4),
        "lm_head.bias": (2,),
        "norm_mean": (3,),
    }
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def own_checkpoint(path: Path, network: nn.Module, **more) -> Path:
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    record = {"format": 1, "licences": ["MIT"], "sources": ["here"], **more}
    return write_checkpoint({"state_dict": state, "global_step": 7, "domainfm": record}, path)


def saved(folder: Path, tensors: dict[str, torch.Tensor], name: str = "w.safetensors") -> Path:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name)
    return folder / name


def test_official_weights_come_through_the_key_map(tmp_path):
    network = Small()

    report = load_weights(saved(tmp_path, official()), network)

    assert torch.equal(network.body.weight, official()["model.proj.weight"].T)
    assert torch.equal(network.head.bias, official()["lm_head.bias"])
    assert torch.equal(network.mean, official()["norm_mean"])
    assert (report.format, report.initialised, report.ignored) == ("safetensors", [], [])
    assert report.metadata["layout"] == "official"
    assert str(report).startswith("weights: 5 tensors from ")


def test_our_names_in_a_safetensors_file_are_recognised(tmp_path):
    source, network = Small(), Small()

    report = load_weights(saved(tmp_path, source.state_dict()), network)

    assert torch.equal(network.body.weight, source.body.weight)
    assert report.metadata["layout"] == "own"


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "pytorch_model.bin", "w.ckpt"])
def test_a_plain_torch_file_loads(tmp_path, name):
    torch.save(official(), tmp_path / name)
    network = Small()

    report = load_weights(tmp_path / name, network)

    assert torch.equal(network.body.weight, official()["model.proj.weight"].T)
    assert report.format == "state_dict"


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_a_training_file_of_wrapped_weights_loads(tmp_path, wrapper):
    state = {f"{wrapper}{name}": tensor for name, tensor in official().items()}
    content = {"model_state_dict": state, "optimizer_state_dict": {"state": {}}, "batches_trained": 9}
    torch.save(content, tmp_path / "checkpoint.pth")
    network = Small()

    report = load_weights(tmp_path / "checkpoint.pth", network)

    assert torch.equal(network.body.weight, official()["model.proj.weight"].T)
    assert (report.loaded, report.metadata["layout"]) == (5, "official")


def test_an_own_checkpoint_gives_its_network_and_its_origin(tmp_path):
    source, network = Small(), Small()

    report = load_weights(own_checkpoint(tmp_path / "a.ckpt", source), network)

    assert all(
        torch.equal(a, b)
        for a, b in zip(source.state_dict().values(), network.state_dict().values(), strict=True)
    )
    assert report.metadata == {
        "path": str(tmp_path / "a.ckpt"),
        "layout": "own",
        "licences": ["MIT"],
        "sources": ["here"],
        "step": 7,
    }


def test_the_average_and_not_the_last_step_is_taken_from_an_averaging_run(tmp_path):
    average, last, network = Small(), Small(), Small()
    prefixed = {f"network.{name}": tensor for name, tensor in average.state_dict().items()}
    current = {f"module.network.{name}": tensor for name, tensor in last.state_dict().items()}
    write_checkpoint({"state_dict": prefixed, "current_model_state": current}, tmp_path / "a.ckpt")

    load_weights(tmp_path / "a.ckpt", network)

    assert torch.equal(network.head.weight, average.head.weight)


def test_a_compiled_network_saved_under_a_wrapper_loads(tmp_path):
    source, network = Small(), Small()
    state = {f"network._orig_mod.{name}": tensor for name, tensor in source.state_dict().items()}
    write_checkpoint({"state_dict": state}, tmp_path / "a.ckpt")

    load_weights(tmp_path / "a.ckpt", network)

    assert torch.equal(network.head.weight, source.head.weight)


def test_missing_unknown_and_misshapen_parameters_are_listed_in_one_sentence(tmp_path):
    wrong = official()
    wrong["lm_head.weight"] = torch.zeros(5, 4)
    wrong["extra.weight"] = torch.zeros(1)
    del wrong["norm_mean"]
    before = Small()
    network = Small()
    network.load_state_dict(before.state_dict())

    with pytest.raises(UserError) as refused:
        load_weights(saved(tmp_path, wrong), network)

    text = str(refused.value)
    assert "1 missing there (mean)" in text
    assert "1 unknown here (extra.weight)" in text
    assert "head.weight is (5, 4) there and (2, 4) here" in text
    assert "model.reinitialise" in text
    assert torch.equal(network.body.weight, before.body.weight), "a refused source must change nothing"


def test_reinitialise_keeps_the_networks_own_start(tmp_path):
    wrong = official()
    wrong["lm_head.weight"] = torch.zeros(5, 4)
    wrong["extra.weight"] = torch.zeros(1)
    del wrong["norm_mean"]
    network = Small()
    head = network.head.bias.detach().clone()

    report = load_weights(saved(tmp_path, wrong), network, reinitialise=["head.*", "mean", "extra.*"])

    assert torch.equal(network.head.bias, head)
    assert torch.equal(network.body.weight, official()["model.proj.weight"].T)
    assert report.initialised == ["head.bias", "head.weight", "mean"]
    assert report.ignored == ["extra.weight"]
    assert "initialised anew: head.bias, head.weight, mean" in str(report)


def test_a_long_list_of_names_is_shortened(tmp_path):
    many = official() | {f"layer{i}.weight": torch.zeros(1) for i in range(30)}

    with pytest.raises(UserError, match=r"30 unknown here \(layer0.*and 22 more\)"):
        load_weights(saved(tmp_path, many), Small())


def test_a_pattern_that_fits_nothing_is_a_typo(tmp_path):
    with pytest.raises(
        UserError, match=r"'haed\.weight', which fits no parameter; did you mean 'head\.weight'\?"
    ):
        load_weights(saved(tmp_path, official()), Small(), reinitialise=["haed.weight"])


@pytest.mark.parametrize("kind", ["int8", "a sparse tensor", "a tensor without values"])
def test_weights_that_are_no_dense_numbers_are_refused(tmp_path, kind):
    wrong = official()
    bias = wrong["lm_head.bias"]
    changed = {"int8": bias.to(torch.int8), "a sparse tensor": bias.to_sparse()}
    wrong["lm_head.bias"] = changed.get(kind, bias.to("meta"))
    torch.save(wrong, tmp_path / "wrong.pt")

    with pytest.raises(UserError, match=rf"head\.bias as {kind}, which is not read"):
        load_weights(str(tmp_path / "wrong.pt"), Small())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    wrong = official()
    wrong["lm_head.bias"][1] = value

    with pytest.raises(UserError, match=r"not finite in head\.bias"):
        load_weights(saved(tmp_path, wrong), Small())


def test_an_infinite_mask_is_no_diverged_weight(tmp_path):
    masked = official() | {"norm_mean": torch.full((3,), float("-inf"))}

    load_weights(saved(tmp_path, masked), Small())


def test_half_precision_weights_are_cast_to_the_networks(tmp_path):
    half = {name: tensor.bfloat16() for name, tensor in official().items()}
    network = Small()

    load_weights(saved(tmp_path, half), network)

    assert network.head.weight.dtype == torch.float32
    assert torch.equal(network.head.weight, half["lm_head.weight"].float())


def test_a_network_without_memory_is_a_programming_error(tmp_path):
    with torch.device("meta"):
        network = Small()

    with pytest.raises(ValueError, match="materialise"):
        load_weights(saved(tmp_path, official()), network)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("gone.ckpt", r"gone\.ckpt do not exist; check the path"),
        ("./some/folder", r"some/folder do not exist; check the path"),
        ("ttm-r2-512-69", r"neither a file.*did you mean 'ttm-r2-512-96'\?"),
    ],
)
def test_a_source_that_is_not_there_is_refused_in_one_sentence(source, sentence):
    with pytest.raises(UserError, match=sentence):
        read_weights(source)


def test_a_card_that_was_not_fetched_says_how(tmp_path, monkeypatch):
    monkeypatch.setenv("DFM_WEIGHTS", str(tmp_path))

    with pytest.raises(UserError, match="run `dfm checkpoint fetch ttm-r2-512-96`"):
        read_weights("ttm-r2-512-96")


def test_weights_without_a_configuration_build_no_network(tmp_path):
    with pytest.raises(UserError, match="does not say which network it belongs to"):
        network_from(saved(tmp_path, official()))


def test_a_checkpoint_cannot_name_a_function_to_be_run(tmp_path):
    evil = {
        "model": {
            "init_args": {"network": {"class_path": "os.mkdir", "init_args": {"path": str(tmp_path / "x")}}}
        }
    }
    path = own_checkpoint(tmp_path / "a.ckpt", Small(), config=evil)

    with pytest.raises(UserError, match=r"names os\.mkdir, which is part neither of domainfm nor"):
        network_from(path)

    assert not (tmp_path / "x").exists()


def test_a_network_is_rebuilt_from_the_class_path_in_the_checkpoint(tmp_path):
    config = {
        "network": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 3, "out_features": 2}}
    }
    source = nn.Linear(3, 2)

    network = network_from(own_checkpoint(tmp_path / "a.ckpt", source, config=config))

    assert isinstance(network, nn.Linear)
    assert torch.equal(network.weight, source.weight)


def test_arguments_that_a_class_does_not_take_are_a_users_mistake(tmp_path):
    config = {"network": {"class_path": "torch.nn.Linear", "init_args": {"width": 3}}}

    with pytest.raises(UserError, match=r"torch\.nn\.Linear with arguments that it does not take"):
        network_from(own_checkpoint(tmp_path / "a.ckpt", nn.Linear(1, 1), config=config))


def test_settings_that_a_config_spells_without_their_class_are_built(tmp_path):
    swin = {"window": [2, 2, 4], "encoder_depths": [1], "encoder_heads": [1], "decoder_depths": [1]}
    sizes = {"width": 16, "perceiver": {"heads": 2}}

    def described(**more):
        settings = {**sizes, "swin": {**swin, **more}}
        return {"class_path": "apps.weather.models.aurora.Aurora", "init_args": settings}

    network = instantiate(described(decoder_heads=[1]), where="my.ckpt")
    assert network.backbone is not None and network.latent_width == 32
    with pytest.raises(UserError, match=r"my.ckpt has SwinShape with a wrong entry decoder_head\b"):
        instantiate(described(decoder_head=[1]), where="my.ckpt")


def test_a_network_without_an_official_layout_is_exported_in_ours(tmp_path):
    config = {
        "network": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 3, "out_features": 2}}
    }
    path = own_checkpoint(tmp_path / "a.ckpt", nn.Linear(3, 2), config=config)

    with pytest.raises(UserError, match="has no official layout; export it with --layout own"):
        export_weights(path, tmp_path / "out")
    export_weights(path, tmp_path / "out", layout="own")

    state = network_from(path).state_dict()
    assert all(
        torch.equal(state[name], tensor)
        for name, tensor in network_from(tmp_path / "out").state_dict().items()
    )
