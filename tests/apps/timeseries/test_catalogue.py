"""The cards that the data module reads are those that `dfm data` fetches."""

from __future__ import annotations

import pytest

from apps.timeseries.catalogue import CARDS, leaks
from core.data.cards import load_card


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_read_as_its_data_card_says(name: str) -> None:
    card, read = load_card(name), CARDS[name]
    assert tuple(file.path for file in card.files) == read.files
    assert card.licence == read.licence
    assert (card.frequency or "").lower() == read.frequency.lower()
    assert card.layout == read.layout


def test_the_two_rates_of_a_station_are_the_same_data() -> None:
    assert leaks(["ett_h1", "weather"], ["ett_m1"]) == [("ett_h1", "ett_m1")]
    assert leaks(["ett_h1", "ett_m1"], ["ett_h2", "ett_m2"]) == []
