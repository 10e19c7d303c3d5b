"""The PDE data cards: constants, splits and counts as they were published."""

from __future__ import annotations

import math

import pytest

from apps.pde.data.card_details import details_of, read_details
from apps.pde.data.readers.pdegym import SETS
from apps.pde.simulation.families import families
from core.cli.data import main as data_main
from core.data.cards import list_cards, load_card, verify
from core.errors import UserError

PUBLISHED = {
    "ns_sines": (20000, 120, 240), "ns_gauss": (20000, 120, 240), "ns_pwc": (20000, 120, 240),
    "ns_bb": (20000, 120, 240), "ns_svs": (20000, 120, 240), "ns_sl": (40000, 120, 240),
    "ns_tracer_pwc": (20000, 120, 240), "fns_kf": (20000, 120, 240), "ce_rp": (10000, 120, 240),
    "ce_crp": (10000, 120, 240), "ce_kh": (10000, 120, 240), "ce_gauss": (10000, 120, 240),
    "ce_rpui": (10000, 120, 240), "ce_rm": (1260, 100, 130), "gce_rt": (1260, 100, 130),
    "wave_gauss": (10512, 60, 240), "wave_layer": (10512, 60, 240), "ace": (15000, 60, 240),
    "se_af": (10869, 120, 240), "poisson_gauss": (20000, 120, 240), "helmholtz": (19675, 128, 512),
}  # fmt: skip


def test_every_pde_card_has_details_that_the_domain_understands():
    cards = list_cards("pde")

    assert {card.name for card in cards} >= {*PUBLISHED, "darcy", "burgers", "ins", "swe", "cns"}
    for card in cards:
        details = details_of(card)
        assert card.files or card.hub or card.package
        assert [name for group in details.groups.values() for name in group] == [
            c.name for c in details.labels
        ]


@pytest.mark.parametrize("name", PUBLISHED)
def test_splits_of_pdegym_are_the_published_ones(name):
    details, (total, val, test) = details_of(load_card(name)), PUBLISHED[name]

    assert details.split is not None
    assert (details.split.total, details.split.val, details.split.test) == (total, val, test)
    assert load_card(name).licence == "CC-BY-NC-4.0"


@pytest.mark.parametrize("name", PUBLISHED)
def test_cards_of_pdegym_agree_with_the_reader(name):
    details = details_of(load_card(name))
    how = SETS[details.places[1]]

    stored = {channel for channels in how.variables.values() for channel in channels}
    used = {c.source for c in (*details.channels, *details.labels)} - {None}
    assert used <= stored or name == "helmholtz"
    assert how.transposed == details.transpose and how.periodic == details.periodic
    assert how.horizon is None or details.steady or how.horizon == details.horizon


@pytest.mark.parametrize(
    ("name", "shift"),
    [("ce_gauss", 2.513), ("ce_kh", 1.0), ("ce_rp", 0.215), ("ce_crp", 0.553), ("ce_rpui", 1.33)],
)
def test_compressible_constants(name, shift):
    found = [(c.name, c.shift, c.mean, c.std) for c in details_of(load_card(name)).channels]

    assert found == [
        ("density", 0.0, 0.80, 0.31), ("velocity_x", 0.0, 0.0, 0.391), ("velocity_y", 0.0, 0.0, 0.356),
        ("pressure", shift, 0.0, 0.185),
    ]  # fmt: skip


def test_incompressible_sets_fill_density_and_mask_the_pressure():
    density, _, _, pressure = details_of(load_card("ns_pwc")).channels

    assert (density.fill, density.masked) == (1.0, False)
    assert (density.fill - density.mean) / density.std == pytest.approx(0.645, abs=1e-3)
    assert (pressure.fill, pressure.masked) == (0.0, True)


def test_other_constants_are_those_of_the_loaders():
    tracer = details_of(load_card("ns_tracer_pwc")).channels[4]
    forced = details_of(load_card("fns_kf")).channels
    wave, layer = details_of(load_card("wave_gauss")), details_of(load_card("wave_layer"))
    helmholtz, airfoil = details_of(load_card("helmholtz")), details_of(load_card("se_af"))

    assert (tracer.mean, tracer.std) == (0.19586183, 0.37)
    assert (forced[1].mean, forced[1].std) == (-2.2424793e-13, 0.22017328)
    assert (forced[4].fill, forced[4].mean, forced[4].std) == ("kolmogorov", -1.2996679e-9, 0.0707106739)
    assert (wave.channels[1].mean, wave.time_constant) == (2618.4593933, 15.0)
    assert (layer.channels[0].std, layer.time_constant) == (0.10442421752963911, 20.0)
    assert details_of(load_card("ace")).time_constant == 19.0
    assert (helmholtz.channels[0].shift, helmholtz.labels[0].mean) == (1.0, 0.11523915668552)
    assert (airfoil.obstacle, airfoil.labels[0].std) == ("shape", 0.10864315)
    assert details_of(load_card("gce_rt")).step == 1


def test_families_with_a_card_make_the_fields_the_card_needs():
    for name, family in families().items():
        if name in PUBLISHED:
            details = details_of(load_card(name))
            assert {c.source for c in (*details.channels, *details.labels)} - {None} <= set(family.channels)


def test_the_files_of_darcy_beside_the_checkout_are_the_published_ones(shared):
    states = verify(load_card("darcy"), shared / "data" / "pde")

    assert [state.state for state in states] == ["good"] * 3


def test_a_set_for_the_hand_says_where_to_take_it(capsys):
    assert data_main(["fetch", "ns_sines"]) == 0
    assert "camlab-ethz/NS-Sines" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("details", "words"),
    [
        ({"channels": [{"name": "u", "sdt": 1.0}]}, "channels.0.sdt"),
        ({"channels": [{"name": "u", "std": -1.0}]}, "must be positive"),
        ({"channels": [{"name": "u", "fill": 1.0}]}, "needs mean and std"),
        ({"channels": [{"name": "u", "fill": "sines", "mean": 0.0, "std": 1.0}]}, "known: kolmogorov"),
        ({"channels": [{"name": "u"}], "groups": {"a": ["v"]}}, "which is no label"),
        ({"channels": [{"name": "u"}], "interest": ["v"]}, "interest names 'v'"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_wrong_details_are_one_sentence(details, words):
    with pytest.raises(UserError, match=words) as raised:
        read_details(details, where="data card 'mine'")

    assert "\n" not in str(raised.value) and "mine" in str(raised.value)


def test_numbers_in_cards_are_finite():
    for card in list_cards("pde"):
        for channel in details_of(card).channels:
            assert math.isfinite(channel.mean or 0.0) and math.isfinite(channel.std or 1.0)
