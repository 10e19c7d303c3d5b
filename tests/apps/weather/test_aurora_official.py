"""Official layouts of Aurora's weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from apps.weather.models.aurora.official import CLOCK, EMISSIONS, GASES, KEY_MAP, POLLUTANTS
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
    with pytest.raises(
        UserError, match="weights read 2 states and the network 1; give"
    ):
        replace(KEY_MAP, history=1).from_official(older)


def test_an_older_file_of_other_variables_is_refused(older: dict[str, Tensor]) -> None:
    older[f"net.{EMBED}.weight"] = kernels(6)

    with pytest.raises(UserError, match=r"atmos_token_embeds.weight of the shape .* of 5 variables"):
        KEY_MAP.from_official(older)
