"""Tables and figures of evaluations: nothing is lost, cut or read as mathematics, whatever the names."""

from __future__ import annotations

from apps.remote_sensing.reports import confusion_rows


def test_no_class_takes_a_column_of_the_confusion_table() -> None:
    names = ["label", "water", "water", "predicted label", "water (2)"]
    counts = [[10 * row + column for column in range(5)] for row in range(5)]
    rows = confusion_rows(counts, names)
    assert [row["label"] for row in rows] == ["label", "water", "water (3)", "predicted label", "water (2)"]
    assert [list(row.values())[1:] for row in rows] == counts
    assert list(rows[0])[:3] == ["label", "predicted label", "predicted water"]
