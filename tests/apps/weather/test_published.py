"""Published statistics of Aurora and of the light decoders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from apps.weather.batch import States, Variables
from apps.weather.data.published import TENTH_DEGREE, published_scaling, published_statistics
from core.errors import UserError


def test_every_published_number_is_there(shared: Path) -> None:
    sheet = json.loads((shared / "reference" / "weather_aurora_normalisation.json").read_text())
    statics = ("lsm", "z", "slt", "wmb", "lat_mask")
    expected = {}
    for name, pair in sheet["surface_and_static"].items():
        static = name in statics or name.startswith("static_")
        expected[f"static_{name}" if static else name] = (pair["location"], pair["scale"])
    for name, rows in sheet["atmospheric"].items():
        for level, *pair in zip(rows["levels_hPa"], rows["location"], rows["scale"], strict=True):
            expected[f"{name}_{level}"] = tuple(pair)
    for name, pair in sheet["hydrology_decoders"]["variables"].items():
        expected[name] = (pair["location"], pair["scale"])

    table = published_statistics()

    assert {name: table[name] for name in expected} == expected
    assert set(table) - set(expected) == {"swvl1", "swvl2", "swvl3", "swvl4"}


def test_scaling_of_chosen_variables_has_their_transforms() -> None:
    variables = Variables(("2t", "tp", "e"), ("z", "q"), (500.0, 850.0), ("lsm", "z"))

    scaling = published_scaling(variables)

    assert scaling.transforms == {"tp": "log_amount", "e": "evaporation"}
    assert scaling.statistics["z_500"] == (54115.37, 3353.187)
    assert scaling.statistics["static_z"] == (-1386.496, 58844.67)
    states = States(torch.tensor([280.0, 2e-3, -1e-4]).view(1, 1, 3, 1, 1), torch.ones(1, 1, 2, 2, 1, 1))
    back = scaling.physical(scaling.scaled(states, variables), variables)
    torch.testing.assert_close(back.surface, states.surface, rtol=1e-5, atol=1e-9)


def test_overrides_stand_instead_of_the_published_ones() -> None:
    scaling = published_scaling(
        Variables((), ("z",), (700.5,), ("z",)), {**TENTH_DEGREE, "z_700_5": (28900.0, 2100.0)}
    )

    assert scaling.statistics == {"z_700_5": (28900.0, 2100.0), "static_z": (-3270.407, 65403.35)}


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (
            Variables(("2t",), ("z", "t"), (500.0, 700.5)),
            r"no statistics of z_700_5, t_700_5 \(levels are",
        ),
        (Variables(("2tm",), ("z",), (500.0,)), r"no statistics of 2tm .*; give them .*did you mean '2t'\?"),
    ],
)
def test_what_has_no_statistics_is_refused_in_one_sentence(variables: Variables, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        published_scaling(variables)
