"""The hub's folder layout, and the way from official weights to our checkpoints and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from published import write_folder
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from apps.timeseries.models.mixer.settings import DecoderSettings
from apps.timeseries.models.ttm import TTM, to_official_config
from core.checkpoints.cards import card_names, fetched_folder, load_weights_card
from core.checkpoints.exchange import export_state, export_weights, import_weights
from core.checkpoints.files import read_checkpoint
from core.checkpoints.networks import (
    chosen_arguments,
    describe_network,
    instantiate,
    system_module,
    systems,
)
from core.checkpoints.sources import fetch_hub, read_folder, read_weights
from core.checkpoints.weights import load_weights, network_from
from core.errors import UserError


def small_ttm(**more) -> TTM:
    return TTM(
        context=32,
        horizon=8,
        patch=8,
        width=16,
        depth=1,
        levels=2,
        **{"decoder": DecoderSettings(width=8, depth=1), **more},
    )


@pytest.fixture
def official_folder(tmp_path: Path) -> Path:
    """A folder as the system's authors publish it, of a small network."""
    from apps.timeseries.models.ttm import KEY_MAP

    torch.manual_seed(1)
    network = small_ttm()
    write_folder(
        tmp_path / "published", KEY_MAP.to_official(network.state_dict()), to_official_config(network)
    )
    return tmp_path / "published"


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_official_weights_survive_import_and_export_bit_for_bit(tmp_path, official_folder):
    made = import_weights(official_folder, tmp_path / "x.ckpt")
    export_weights(made, tmp_path / "out")

    before, config_before, _ = read_folder(official_folder)
    after, config_after, metadata = read_folder(tmp_path / "out")
    assert same(before, after)
    assert config_before == config_after
    assert metadata["format"] == "pt", "the transformers library asks for this key"


def test_the_own_layout_survives_too(tmp_path, official_folder):
    made = import_weights(official_folder, tmp_path / "x.ckpt")
    export_weights(made, tmp_path / "own", layout="own")
    again = import_weights(tmp_path / "own", tmp_path / "y.ckpt")

    assert same(read_checkpoint(made)["state_dict"], read_checkpoint(again)["state_dict"])


def test_an_imported_checkpoint_says_where_it_came_from(tmp_path, official_folder):
    made = read_checkpoint(import_weights(official_folder, tmp_path / "x.ckpt"))

    record = made["domainfm"]
    assert (record["domain"], record["system"], record["key_map"]) == (
        "timeseries",
        "ttm",
        "apps.timeseries.models.ttm",
    )
    assert record["sources"] == [str(official_folder)]
    assert made["global_step"] == 0
    assert all(name.startswith("network.") for name in made["state_dict"])


def test_an_imported_network_predicts_what_the_official_weights_predict(tmp_path, official_folder):
    made = import_weights(official_folder, tmp_path / "x.ckpt")
    past = torch.randn(2, 32, 3, generator=torch.Generator().manual_seed(0))

    direct, through = network_from(official_folder).eval(), network_from(made).eval()

    assert torch.equal(direct(past).prediction, through(past).prediction)


def test_a_changed_network_loads_with_what_is_new_named(official_folder):
    network = small_ttm(channels=3, decoder=DecoderSettings(width=8, depth=1, channel_mixing=True))

    with pytest.raises(UserError, match=r"missing there \(decoder\.mixer"):
        load_weights(official_folder, network)
    report = load_weights(official_folder, network, reinitialise=["decoder.mixer.*channel_mixer.*"])

    assert report.initialised
    assert all("channel_mixer" in name for name in report.initialised)


def test_a_single_file_of_an_export_carries_its_own_description(tmp_path, official_folder):
    made = import_weights(official_folder, tmp_path / "x.ckpt")
    export_weights(made, tmp_path / "out")
    alone = (tmp_path / "out" / "model.safetensors").rename(tmp_path / "alone.safetensors")

    assert same(network_from(alone).state_dict(), network_from(made).state_dict())


def test_shards_with_an_index_are_joined(official_folder):
    tensors, _, _ = read_folder(official_folder)
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, official_folder / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (official_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (official_folder / "model.safetensors").unlink()

    assert same(read_folder(official_folder)[0], tensors)

    (official_folder / "b.safetensors").unlink()
    with pytest.raises(UserError, match=r"b\.safetensors do not exist"):
        read_folder(official_folder)


def test_an_index_cannot_name_files_elsewhere(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')

    with pytest.raises(UserError, match="outside of the folder"):
        read_folder(tmp_path)


def test_a_truncated_weights_file_is_refused(official_folder):
    path = official_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(UserError, match="damaged or no safetensors file"):
        read_folder(official_folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [("version https://git-lfs.github.com/spec/v1\noid", "Git LFS"), ("<!DOCTYPE html><p>", "web page")],
)
def test_what_was_fetched_in_place_of_weights_is_named(tmp_path, text, words):
    for name in ("model.safetensors", "a.ckpt"):
        (tmp_path / name).write_text(text)
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(UserError, match=words):
        read_folder(tmp_path)
    with pytest.raises(UserError, match=words):
        read_checkpoint(tmp_path / "a.ckpt")


def test_a_folder_without_weights_says_what_it_lacks(tmp_path):
    with pytest.raises(
        UserError, match=r"holds neither model\.safetensors nor model\.safetensors\.index\.json"
    ):
        read_weights(tmp_path)


class Tied(nn.Module):
    """An embedding whose matrix is also the output's."""

    def __init__(self, listed: bool) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.out.weight = self.embed.weight
        if listed:
            self.tied_parameters = ["out.weight"]


def test_tied_weights_are_written_once_and_come_back_tied(tmp_path):
    source, target = Tied(listed=True), Tied(listed=True)
    write_folder(tmp_path, export_state(source), {})

    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert list(file.keys()) == ["embed.weight"]
    load_weights(tmp_path, target)

    assert torch.equal(target.out.weight, source.embed.weight)
    assert target.out.weight is target.embed.weight


def test_shared_memory_that_is_not_listed_is_named():
    with pytest.raises(
        ValueError, match=r"embed\.weight and out\.weight share memory; .*Tied\.tied_parameters"
    ):
        export_state(Tied(listed=False))


def test_tensors_of_any_stride_are_written(tmp_path):
    tensor = torch.arange(6.0).reshape(2, 3).T

    write_folder(tmp_path, {"w": tensor}, {})

    assert torch.equal(read_folder(tmp_path)[0]["w"], tensor)


def test_a_full_folder_is_not_overwritten(tmp_path, official_folder):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")

    with pytest.raises(UserError, match="holds other things already"):
        export_weights(official_folder, tmp_path / "mine")


def test_an_unknown_hub_repository_offline_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(
        UserError, match=r"^hub repository someone/model@v2 is not on this machine .* connect, or copy"
    ):
        read_weights("someone/model@v2")


def test_a_cached_hub_repository_is_read_offline(monkeypatch, tmp_path, official_folder):
    commit = "0" * 40
    snapshot = tmp_path / "models--someone--model" / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    official_folder.rename(snapshot)
    (tmp_path / "models--someone--model" / "refs").mkdir()
    (tmp_path / "models--someone--model" / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))

    weights = read_weights("someone/model")

    assert fetch_hub("someone/model") == snapshot
    assert weights.record["sources"] == ["someone/model"]
    assert isinstance(network_from(weights), TTM)


def test_a_fetched_card_is_a_source_with_its_licence(monkeypatch, tmp_path, official_folder):
    monkeypatch.setenv("DFM_WEIGHTS", str(tmp_path))
    official_folder.rename(tmp_path / "ttm-r2-512-192")
    network = small_ttm()

    report = load_weights("ttm-r2-512-192", network)

    assert report.metadata["licences"] == ["apache-2.0"]
    assert report.metadata["sources"] == ["ibm-granite/granite-timeseries-ttm-r2@512-192-r2"]


@pytest.mark.parametrize("name", card_names())
def test_every_weights_card_is_valid_and_its_layout_leads_to_its_system(name):
    card = load_weights_card(name)

    assert card.name == name
    assert card.module.startswith(f"apps.{card.domain}.models.")
    assert system_module(card.layout).__name__ == card.module


@pytest.mark.parametrize("name", [name for name in card_names() if load_weights_card(name).size is not None])
def test_every_size_that_a_weights_card_names_makes_a_network(name):
    card = load_weights_card(name)

    with torch.device("meta"):
        network = instantiate(card.size.model_dump(), where=name)

    config = system_module(card.layout).to_official_config(network)
    assert config["model_type"] == card.layout
    read = (config.get("context_length"), config.get("prediction_length"))
    assert (*read, config.get("resolution_prefix_tuning", False)) == (
        card.context,
        card.horizon,
        card.prefix_tuned,
    )


def test_a_folder_with_the_older_torch_file_is_read(official_folder):
    tensors, config, _ = read_folder(official_folder)
    torch.save(tensors, official_folder / "pytorch_model.bin")
    (official_folder / "model.safetensors").unlink()

    again, same, _ = read_folder(official_folder)

    assert same == config
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def test_a_missing_file_of_a_card_counts_as_not_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("DFM_WEIGHTS", str(tmp_path))
    folder = tmp_path / "ttm-r2-512-96"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")

    with pytest.raises(UserError, match="dfm checkpoint fetch ttm-r2-512-96"):
        fetched_folder(load_weights_card("ttm-r2-512-96"))


def test_systems_are_found_by_name_module_and_official_type():
    assert systems()["ttm"] == "apps.timeseries.models.ttm"
    assert {
        system_module(word).__name__ for word in ("ttm", "apps.timeseries.models.ttm", "tinytimemixer")
    } == {"apps.timeseries.models.ttm"}
    with pytest.raises(UserError, match=r"'tmm' is no system of domainfm .*did you mean 'ttm'\?"):
        system_module("tmm")


def test_a_network_is_described_so_that_it_can_be_rebuilt():
    network = small_ttm(dropout=0.4)

    again = instantiate(describe_network(network), where="here")

    assert to_official_config(again) == to_official_config(network)


CASES = [
    "channel_independent_adaptive",
    "masked_prediction",
    "prefix_mixchannel_exogenous_fcm",
    "selfattn_categorical_rawresidual",
]


@pytest.fixture
def recorded(request, shared: Path, tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A published folder made of a case that the official implementation recorded, and its tensors."""
    case = shared / "parity" / "tinytimemixer" / request.param
    head = json.loads(case.with_suffix(".json").read_text())
    tensors = load_file(case.with_suffix(".safetensors"))
    state = {name[len("state/") :]: value for name, value in tensors.items() if name.startswith("state/")}
    about = {"model_type": "tinytimemixer", "architectures": [head["model_class"]]}
    write_folder(tmp_path / "recorded", state, {**head["config"], **about})
    return tmp_path / "recorded", tensors


@pytest.mark.parametrize("recorded", CASES, indirect=True)
def test_recorded_official_weights_survive_import_and_export_bit_for_bit(tmp_path, recorded):
    folder, _ = recorded

    export_weights(import_weights(folder, tmp_path / "x.ckpt"), tmp_path / "out")

    assert same(read_folder(folder)[0], read_folder(tmp_path / "out")[0])


@pytest.mark.parametrize("recorded", CASES[:1], indirect=True)
def test_an_imported_network_gives_the_recorded_forecast(tmp_path, recorded):
    folder, tensors = recorded
    made = import_weights(folder, tmp_path / "x.ckpt")

    network = network_from(made).eval()
    found = network(tensors["input/past_values"], past_observed=tensors["input/past_observed_mask"].bool())

    torch.testing.assert_close(found.prediction, tensors["output/prediction_outputs"], rtol=1e-4, atol=1e-5)


def test_a_short_line_shows_only_the_arguments_that_were_chosen():
    arguments = {"context": 512, "dropout": 0.2}
    size = {"class_path": "apps.timeseries.models.ttm.ttm_512_96", "init_args": arguments}
    other = {"class_path": "apps.timeseries.models.ttm.TTM", "init_args": {"dropout": 0.4, "levels": 3}}
    gone = {"class_path": "apps.gone.Net", "init_args": {"width": 3}}

    assert chosen_arguments(size) == {"context": 512}
    assert chosen_arguments(other) == {"dropout": 0.4}
    assert chosen_arguments(gone) == {"width": 3}


def test_a_config_without_end_is_refused_in_one_sentence(official_folder):
    (official_folder / "config.json").write_text('{"a": ' + "[" * 50_000 + "]" * 50_000 + "}")

    with pytest.raises(UserError, match=r"config\.json holds lists within lists without end"):
        read_weights(official_folder)


def test_exported_weights_have_the_mode_of_other_files(tmp_path, official_folder):
    (tmp_path / "other").write_text("")

    out = export_weights(official_folder, tmp_path / "out")

    assert (out / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
