"""The cards that the data module reads are those that `dfm data` fetches."""

from __future__ import annotations

import pytest

from apps.timeseries.data.catalogue import CARDS, borders, leaks
from apps.timeseries.data.settings import split_rows
from core.data.cards import list_cards, load_card


def test_every_card_with_files_can_be_read() -> None:
    assert {card.name for card in list_cards("timeseries") if card.files} == set(CARDS)


@pytest.mark.parametrize("name", CARDS)
def test_a_card_says_what_its_reading_needs(name: str) -> None:
    card, roles = load_card(name), CARDS[name].roles
    named = {*roles.time, *roles.channels} if card.layout == "columns" else set()
    assert named <= {*card.columns, *card.time}
    assert card.frequency
    assert split_rows(borders(card), 60_000, horizon=48).test[1] > 0


@pytest.mark.parametrize(("name", "kind"), [("ett_h1", "ett_h"), ("ett_m2", "ett_m")])
def test_the_rows_of_a_card_are_the_benchmarks(name: str, kind: str) -> None:
    assert split_rows(borders(load_card(name)), 69_680) == split_rows(kind, 69_680)


def test_the_two_rates_of_a_station_are_the_same_data() -> None:
    assert leaks(["ett_h1", "weather"], ["ett_m1"]) == [("ett_h1", "ett_m1")]
    assert leaks(["ett_h1", "ett_m1"], ["ett_h2", "ett_m2"]) == []
