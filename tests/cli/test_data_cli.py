"""`dfm data`: what it prints, and one sentence with exit code 2 for every mistake."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys

import pytest

from core.cli import main
from core.cli.data import main as data_main
from core.errors import UserError


def test_list_names_every_card_of_a_domain(capsys):
    assert data_main(["list"]) == 0
    everything = capsys.readouterr().out
    assert data_main(["list", "timeseries"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert any("ett_h1" in line and "CC BY-ND 4.0" in line and "2.6 MB" in line for line in lines)
    assert set(lines) <= set(everything.splitlines())


def test_show_prints_source_licence_splits_and_hash(capsys):
    assert data_main(["show", "weather"]) == 0

    text = capsys.readouterr().out
    for words in ("licence:", "none stated", "fractions", "34ee981d07313e51", "weather.zip : weather.csv"):
        assert words in text


def test_verify_and_fetch_use_files_that_are_there(shared, capsys, monkeypatch):
    monkeypatch.setenv("DFM_DATA", str(shared / "data" / "timeseries"))

    assert data_main(["verify"]) == 0
    assert capsys.readouterr().out.count("good ") == 10
    assert data_main(["verify", "ett_h1", "embedded"]) == 0


def test_fetch_of_files_that_are_there_prints_their_paths(shared, tmp_path, capsys):
    (tmp_path / "ETT-small").mkdir()
    whole = (shared / "data" / "timeseries" / "ETT-small" / "ETTh1.csv").read_bytes()
    (tmp_path / "ETT-small" / "ETTh1.csv.gz").write_bytes(gzip.compress(whole, 1))

    assert data_main(["fetch", "ett_h1", "embedded", "--folder", str(tmp_path), "--quiet"]) == 0

    out = capsys.readouterr().out
    assert "ETTh1.csv.gz" in out and "embedded: nothing to fetch, it ships with statsmodels" in out


def test_verify_of_missing_and_damaged_files_says_how_to_get_them(tmp_path, capsys):
    (tmp_path / "ETT-small").mkdir()
    (tmp_path / "ETT-small" / "ETTh1.csv").write_text("damaged")

    with pytest.raises(UserError, match="files of ett_h1 are missing or damaged; `dfm data fetch ett_h1`"):
        data_main(["verify", "--folder", str(tmp_path)])
    assert "wrong    ett_h1" in capsys.readouterr().out
    with pytest.raises(UserError, match="weather"):
        data_main(["verify", "weather", "--folder", str(tmp_path)])
    assert data_main(["verify", "--folder", str(tmp_path / "empty")]) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lst"], "did you mean 'list'?"),
        (["show"], "the following arguments are required: card"),
        (["show", "ett_h11"], "did you mean 'ett_h1'?"),
        (["fetch", "ett_h1", "nothing"], "no data card 'nothing'"),
        (["fetch", "ett_h1", "--folder", "/dev/null/x", "--quiet"], "cannot write into"),
        (["list", "musc"], "no data card is of the domain 'musc'"),
        (["list", "--verbose"], "unknown option --verbose"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(words, told, capsys):
    assert main(["data", *words]) == 2

    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_list_answers_quickly_and_without_torch():
    code = (
        "import sys; from core.cli import main; main(['data', 'list']);"
        "sys.exit('torch' in sys.modules or 'requests' in sys.modules)"
    )
    begin = os.times()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)
    end = os.times()

    used = end.children_user - begin.children_user + end.children_system - begin.children_system
    assert used < 0.6, f"`dfm data list` used {used:.2f} s of processor time; it should be about 0.2"
