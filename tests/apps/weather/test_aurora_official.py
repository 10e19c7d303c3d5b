"""Official layouts of Aurora's weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from apps.weather.models.aurora import (
    Aurora,
    PerceiverShape,
    SwinShape,
    from_official_config,
    to_official_config,
)
from apps.weather.models.aurora.official import CLOCK, EMISSIONS, GASES, KEY_MAP, POLLUTANTS
from core.checkpoints.cards import card_of_file
from core.checkpoints.exchange import export_weights, import_weights
from core.checkpoints.weights import load_weights, network_from
from core.errors import UserError

WIDTH, PATCH, LEVELS = 4, 3, (50, 850)
EMBED, HEADS = "encoder.atmos_token_embeds", "decoder.atmos_heads"


def kernels(variables: int) -> Tensor:
    return torch.randn(WIDTH, variables, 2, PATCH, PATCH)


def head(name: str, variables: int) -> dict[str, Tensor]:
    rows = variables * PATCH**2
    return {f"net.{name}.weight": torch.randn(rows, 8), f"net.{name}.bias": torch.randn(rows)}


@pytest.fixture
def older() -> dict[str, Tensor]:
    """A weather file in the older layout."""
    return {
        "net.encoder.surf_token_embeds.weight": kernels(7),
        "net.encoder.surf_token_embeds.bias": torch.randn(WIDTH),
        f"net.{EMBED}.weight": kernels(5),
        f"net.{EMBED}.bias": torch.randn(WIDTH),
        **head("decoder.surf_head", 4),
        **head("decoder.atmos_head", 5),
        "net.encoder.level_agg.layers.0.0.k_ln.weight": torch.randn(WIDTH),
    }


@pytest.fixture
def older_pollution(older: dict[str, Tensor]) -> dict[str, Tensor]:
    """An air-pollution file in the older layout, on two levels."""
    state = {name: tensor for name, tensor in older.items() if "atmos_head" not in name}
    state["net.encoder.surf_token_embeds.weight_new"] = kernels(22)
    state |= {f"net.{EMBED}.weight_new": kernels(5), f"net.{EMBED}.weight_new2": kernels(17)}
    state |= {**head("decoder.surf_head_new", 8), **head("decoder.surf_head_mod", 12)}
    for level in LEVELS:
        name = f"net.{EMBED}_new.layers.{level}"
        state |= {f"{name}.weight": kernels(5), f"{name}.weight_new": kernels(5)}
        state |= {f"{name}.weight_new2": kernels(17), f"{name}.bias": torch.randn(WIDTH)}
        for kind in ("", "_mod", "_new", "_mod_new"):
            state |= head(f"decoder.atmos_head{kind}.layers.{level}", 5)
    for name in ("surf_feature_combiner.2t", "atmos_feature_combiner.q", "atmos_feature_combiner.co"):
        state |= {f"net.{name}.weight": torch.randn(1, 2), f"net.{name}.bias": torch.randn(1)}
    state["net.decoder.level_decoder_new.layers.0.2.weight"] = torch.randn(8)
    return state


def test_older_kernels_and_heads_are_told_apart_by_variable(older: dict[str, Tensor]) -> None:
    state = KEY_MAP.from_official(older)

    assert len(state) == 7 + 1 + 5 + 1 + 2 * 4 + 2 * 5 + 1
    slt = older["net.encoder.surf_token_embeds.weight"][:, 6:]
    assert torch.equal(state["encoder.surf_token_embeds.weights.slt"], slt)
    assert torch.equal(state[f"{EMBED}.weights.q"], older[f"net.{EMBED}.weight"][:, 4:])
    assert torch.equal(state["decoder.surf_heads.10u.weight"], older["net.decoder.surf_head.weight"][1::4])
    assert torch.equal(state[f"{HEADS}.z.bias"], older["net.decoder.atmos_head.bias"][::5])
    assert "encoder.level_agg.layers.0.0.ln_k.weight" in state


def test_older_air_pollution_gets_kernels_and_heads_by_level(older_pollution: dict[str, Tensor]) -> None:
    old = {name.removeprefix("net."): tensor for name, tensor in older_pollution.items()}

    state = KEY_MAP.from_official(older_pollution)

    embedding = {f"weights.static_{name}" for name in ("lsm", "z", "slt", *EMISSIONS, *CLOCK)}
    embedding |= {"bias", *(f"weights.{name}" for name in ("z", "u", "v", "t", "q", *GASES))}
    for level in LEVELS:
        layer = f"{EMBED}.layers.{level}."
        assert {name.removeprefix(layer) for name in state if name.startswith(layer)} == embedding
        bias = old[f"{EMBED}.bias"] + old[f"{EMBED}_new.layers.{level}.bias"]
        assert torch.equal(state[f"{layer}bias"], bias)
        assert torch.equal(state[f"{layer}weights.z"], old[f"{EMBED}.weight_new2"][:, 1:2])
        assert torch.equal(state[f"{layer}weights.t"], old[f"{EMBED}.weight"][:, 3:4])
        assert torch.equal(state[f"{layer}weights.so2"], old[f"{EMBED}_new.layers.{level}.weight_new"][:, 4:])
        modulation = old[f"decoder.atmos_head_mod_new.layers.{level}.weight"]
        assert torch.equal(state[f"{HEADS}.no2_mod.layers.{level}.weight"], modulation[2::5])
    assert torch.equal(state["decoder.surf_heads.pm1_mod.bias"], old["decoder.surf_head_mod.bias"][4::12])
    surface = {f"decoder.surf_heads.{name}{end}.bias" for name in POLLUTANTS for end in ("", "_mod")}
    surface |= {f"decoder.surf_heads.{name}.bias" for name in ("2t", "10u", "10v", "msl")}
    assert {name for name in state if "surf_heads" in name and name.endswith("bias")} == surface
    assert "decoder.level_decoder_alternate.layers.0.2.weight" in state
    assert [name for name in state if "combiner" in name] == [
        f"atmos_feature_combiner.co.{leaf}" for leaf in ("weight", "bias")
    ]
    assert not [name for name in state if "_new" in name or name.startswith("net.")]


def test_kernels_are_padded_to_a_longer_history_with_zeros_at_its_end(older: dict[str, Tensor]) -> None:
    state = replace(KEY_MAP, history=4).from_official(older)

    kernel = state[f"{EMBED}.weights.u"]
    assert kernel.shape == (WIDTH, 1, 4, PATCH, PATCH)
    assert torch.equal(kernel[:, :, :2], older[f"net.{EMBED}.weight"][:, 1:2])
    assert not kernel[:, :, 2:].any()


def test_a_shorter_history_is_refused_in_one_sentence(older: dict[str, Tensor]) -> None:
    with pytest.raises(UserError, match="weights read 2 states and the network 1; give"):
        replace(KEY_MAP, history=1).from_official(older)


def test_an_older_file_of_other_variables_is_refused(older: dict[str, Tensor]) -> None:
    older[f"net.{EMBED}.weight"] = kernels(6)

    with pytest.raises(UserError, match=r"atmos_token_embeds.weight of the shape .* of 5 variables"):
        KEY_MAP.from_official(older)


SHAPE = SwinShape((2, 2, 2), (1, 1), (1, 2), (1, 1), (2, 1))


def network(**changes: object) -> Aurora:
    """A small network with weights that are all different."""
    settings = {"width": 8, "patch": PATCH, "latent_levels": 2, "swin": SHAPE, "perceiver": PerceiverShape(2)}
    built = Aurora(**{**settings, **changes})
    with torch.no_grad():
        for weight in built.parameters():
            weight.normal_()
    return built


def same(one: Aurora, other: Aurora, but: str = "-") -> bool:
    there = other.state_dict()
    return all(torch.equal(x, there[name]) for name, x in one.state_dict().items() if but not in name)


def older_file(net: Aurora, path: Path) -> Path:
    """Write a network's weights as the oldest released files hold them."""
    state = {f"net.{name}": x for name, x in net.state_dict().items() if "_heads." not in name}
    for kind, names in (("surf", net.variables.surface), ("atmos", net.variables.atmospheric)):
        rows = [net.get_parameter(f"decoder.{kind}_heads.{name}.weight") for name in names]
        state[f"net.decoder.{kind}_head.weight"] = torch.stack(rows, 1).flatten(0, 1)
        biases = [net.get_parameter(f"decoder.{kind}_heads.{name}.bias") for name in names]
        state[f"net.decoder.{kind}_head.bias"] = torch.stack(biases, 1).flatten()
        names = (*names, *net.variables.static) if kind == "surf" else names
        stem = f"net.encoder.{kind}_token_embeds.weight"
        state[stem] = torch.cat([state.pop(f"{stem}s.{name}") for name in names], 1)
    torch.save(state, path)
    return path


def test_names_go_out_and_come_back() -> None:
    state = network().state_dict()

    again = KEY_MAP.from_official(KEY_MAP.to_official(state))

    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_an_older_file_fills_a_network(tmp_path: Path) -> None:
    source, target = network(), network()

    report = load_weights(older_file(source, tmp_path / "older.ckpt"), target)

    assert same(target, source)
    assert report.metadata["layout"] == "official"


def test_an_older_file_fills_a_network_with_more_variables_and_states(tmp_path: Path) -> None:
    source = network()
    target = network(surface=("2t", "10u", "10v", "msl", "tp"), history=3)
    new = target.get_parameter("decoder.surf_heads.tp.weight").clone()

    load_weights(older_file(source, tmp_path / "older.ckpt"), target, reinitialise=["*s.tp", "*s.tp.*"])

    assert same(source, target, but="_token_embeds.weights.")
    assert torch.equal(target.get_parameter("decoder.surf_heads.tp.weight"), new)
    kernel = target.get_parameter("encoder.surf_token_embeds.weights.z")
    assert torch.equal(kernel[:, :, :2], source.get_parameter("encoder.surf_token_embeds.weights.z"))
    assert not kernel[:, :, 2:].any()


def test_weights_go_out_as_official_ones_and_come_back_as_ours(tmp_path: Path) -> None:
    source = network(step=12.0, history=3, level_condition=(500.0, 700.5))
    (tmp_path / "first").mkdir()
    torch.save(source.state_dict(), tmp_path / "first" / "weights.ckpt")
    (tmp_path / "first" / "config.json").write_text(json.dumps(to_official_config(source)))

    own = import_weights(tmp_path / "first", tmp_path / "own.ckpt", system="aurora")
    out = export_weights(own, tmp_path / "out")

    back = network_from(out)
    assert same(back, source) and same(network_from(own), source)
    assert to_official_config(back) == to_official_config(source)
    longer = network(step=12.0, history=4, level_condition=(500.0, 700.5))
    load_weights(own, longer)
    assert same(source, longer, but="_token_embeds.")


def test_a_published_file_is_known_by_its_name() -> None:
    card = card_of_file("aurora-0.25-wave.ckpt")

    assert card is not None and card.size is not None
    assert card.size.class_path == "apps.weather.models.aurora.aurora_wave"
    assert card_of_file("config.json") is None and card_of_file("aurora-0.25-static.pickle") is None


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("0.25-pretrained", "AuroraPretrained"),
        ("0.25-small-pretrained", "AuroraSmallPretrained"),
        ("0.25-12h-pretrained", "Aurora12hPretrained"),
        ("0.25-finetuned", "Aurora"),
        ("0.1-finetuned", "AuroraHighRes"),
        ("0.4-air-pollution", "AuroraAirPollution"),
        ("0.25-wave", "AuroraWave"),
    ],
)
def test_every_tensor_of_a_released_network_is_there(shared: Path, file: str, kind: str) -> None:
    released = json.loads((shared / "reference" / "weather_aurora_state_dict.json").read_text())[
        "checkpoints"
    ]
    record = released[f"aurora-{file}.ckpt"]
    shapes = record.get("tensors") or released[record["relative_to"]]["tensors"]
    shapes = {name: shape for name, shape in shapes.items() if name not in record.get("removed", ())}
    shapes |= record.get("added_or_reshaped", {})

    with torch.device("meta"):
        built = from_official_config({"model_class": kind})

    state = KEY_MAP.to_official(built.state_dict())
    assert {name: list(tensor.shape) for name, tensor in state.items()} == shapes
    assert len(state) == record["n_tensors"]
    assert sum(tensor.numel() for tensor in state.values()) == record["n_parameters"]
