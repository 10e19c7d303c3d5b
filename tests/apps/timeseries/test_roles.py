"""Which column is what: inferred, stated, refused."""

from __future__ import annotations

import pytest

from apps.timeseries.data.readers.columns import Roles, infer_roles
from core.errors import UserError

KINDS = {
    "date": "time",
    "load": "number",
    "temperature": "number",
    "price": "number",
    "wind": "text",
    "shop": "text",
}


def test_channels_stand_in_the_order_of_their_roles() -> None:
    roles = Roles.of(targets=["a", "b"], conditional="e", control="d", observable="c", categorical="f")
    assert roles.channels == ("a", "b", "c", "d", "e", "f")
    assert roles.exogenous == (2, 3)


def test_time_and_targets_are_inferred_and_said() -> None:
    roles, notes = infer_roles({"n": "number", "when": "time", "x": "number"}, Roles(), source="a.csv")
    assert (roles.time, roles.targets) == (("when",), ("n", "x"))
    assert any("'when'" in note for note in notes)
    assert any("'n', 'x'" in note for note in notes)


def test_columns_with_other_roles_are_no_targets() -> None:
    stated = Roles.of(observable="temperature", categorical="wind", ids="shop")
    roles, _ = infer_roles(KINDS, stated, source="a.csv")
    assert roles.targets == ("load", "price")


def test_year_month_day_hour_make_a_time() -> None:
    kinds = dict.fromkeys(("No", "year", "month", "day", "hour", "x"), "number") | {"No": "counter"}
    roles, _ = infer_roles(kinds, Roles(), source="a.csv")
    assert roles.time == ("year", "month", "day", "hour")
    assert roles.targets == ("x",)


def test_a_long_frame_has_its_id_column_found() -> None:
    roles, notes = infer_roles(
        {"item_id": "text", "timestamp": "time", "target": "number"}, Roles(), source="a.csv"
    )
    assert (roles.ids, roles.targets) == (("item_id",), ("target",))
    assert any("item_id" in note for note in notes)


@pytest.mark.parametrize(
    ("stated", "message"),
    [({"targets": "laod"}, "no column 'laod'.*did you mean 'load'"),
     ({"targets": "wind"}, "'wind'.*text, not numbers"),
     ({"targets": "load", "observable": "load"}, "both in targets and in observable")],
)  # fmt: skip
def test_mistakes_name_the_column(stated: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        infer_roles(KINDS, Roles.of(**stated), source="a.csv")


def test_a_table_without_numbers_is_refused() -> None:
    with pytest.raises(UserError, match="no numeric column"):
        infer_roles({"date": "time", "shop": "text"}, Roles.of(ids="shop"), source="a.csv")


def test_an_unknown_role_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UserError, match="did you mean 'targets'"):
        Roles.of(target="x")
