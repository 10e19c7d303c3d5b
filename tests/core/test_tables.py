"""Tables that we write: aligned text, and CSV that no spreadsheet runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.tables import harmless, write_table


@pytest.mark.parametrize("cell", ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3", "\t=1", "=HYPERLINK(1)"])
def test_words_that_begin_like_a_formula_are_written_as_words(tmp_path: Path, cell: str) -> None:
    write_table(tmp_path / "x.csv", [{"id": "a", cell: cell}])
    rows = (tmp_path / "x.csv").read_text().splitlines()
    assert all(f"'{cell}" in row for row in rows)


@pytest.mark.parametrize("cell", ["-5", "+49", "-1e-3", -5.0, "a=b", "", None, "-inf"])
def test_numbers_and_other_words_stay_as_they_are(cell: object) -> None:
    assert harmless(cell) == cell
