"""`dfm data`: what it prints, and one sentence with exit code 2 for every mistake."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import time

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


def test_show_prints_the_request_that_brings_what_is_too_large_to_fetch(capsys):
    assert data_main(["show", "era5_cds"]) == 0

    program = capsys.readouterr().out.partition("import cdsapi")[2]
    compile(program, "era5_cds", "exec")
    assert "reanalysis-era5-pressure-levels" in program and "soil_type" in program


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
    assert "wrong  ett_h1" in capsys.readouterr().out
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
        (["generate", "pdes/heat"], "one of pde, remote_sensing, weather; did you mean 'pde'?"),
        (["generate", "music"], "cannot generate 'music'"),
        (["generate", "--samples", "3"], "write DOMAIN/WHAT first"),
        (["generate", "pde"], "there is no family 'pde'"),
        (["generate", "pde/ns_sine"], "did you mean 'ns_sines'?"),
        (["generate", "pde/ns_sines", "--sample", "3"], "did you mean '--samples'?"),
        (["generate", "pde/ns_sines", "--samples", "0"], "--samples is 0"),
        (["generate", "pde/ns_sines", "--set", "viscosity"], "--set takes NAME=NUMBER"),
        (["generate", "pde/ns_sines", "--set", "nu=1"], "has no parameter 'nu'"),
        (["generate", "pde/ns_sines", "--device", "gpu"], "there is no device 'gpu'"),
        (["generate", "pde/ns_sines", "--out", "a.nc", "--format", "zarr"], "use --format netcdf"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(words, told, capsys):
    assert main(["data", *words]) == 2

    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_generate_writes_a_store_and_the_published_file(tmp_path, capsys, monkeypatch):
    import h5py
    import xarray

    monkeypatch.setenv("DFM_DATA", str(tmp_path / "data"))
    how = ["--samples", "2", "--resolution", "16", "--snapshots", "3", "--quiet"]

    assert main(["data", "generate", "pde/ns-sines", *how, "--out", str(tmp_path / "ns.zarr")]) == 0
    assert main(["data", "generate", "pde/ns_sines", *how, "--out", str(tmp_path), "--format", "netcdf"]) == 0

    out, err = capsys.readouterr()
    assert out.splitlines() == [str(tmp_path / "ns.zarr"), str(tmp_path / "NS-Sines.nc")] and err == ""
    store = xarray.open_zarr(tmp_path / "ns.zarr", chunks=None)
    assert store["fields"].shape == (2, 3, 3, 16, 16) and store.attrs["family"] == "ns_sines"
    with h5py.File(tmp_path / "NS-Sines.nc") as file:
        assert (file["velocity"][:] == store["fields"].values).all()


def test_generate_takes_parameters_and_says_what_a_folder_holds(tmp_path, capsys):
    words = ["data", "generate", "pde/ns_pwc", "--samples", "1", "--resolution", "16", "--snapshots", "2"]
    words += ["--out", str(tmp_path / "s"), "--set", "viscosity=0.01"]

    assert main(words) == 0
    assert "ns_pwc  1/1 trajectories" in capsys.readouterr().err
    assert main([*words, "--seed", "5"]) == 2
    assert "holds trajectories with seed 0, not 5" in capsys.readouterr().err


def test_generate_list_shows_titles_and_help_the_domains(capsys):
    assert main(["data", "generate", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("pde/ns_sines" in line and "21 snapshots" in line and "sine" in line for line in lines)
    assert main(["data", "generate", "pde", "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [line for line in lines if line.startswith("pde/")]
    assert main(["data", "generate"]) == 0
    assert "DOMAIN/WHAT" in capsys.readouterr().out


def test_interrupted_generation_keeps_what_is_complete_and_goes_on(tmp_path):
    out = tmp_path / "s"
    words = [sys.executable, "-m", "core.cli", "data", "generate", "pde/ns_sl", "--samples", "400"]
    words += ["--resolution", "32", "--batch", "2", "--out", str(out)]
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that a shell runs in the background ignore the signal, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = time.monotonic() + 60
    while len(list(out.glob("fields/c/*"))) < 4 and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)

    assert process.returncode == 130 and "the same command goes on" in told and "Traceback" not in told
    from core.data.sample_store import Store

    done = int(Store.open(out).complete().sum())
    assert 2 <= done < 400
    assert main(["data", "generate", "pde/ns_sl", "--samples", str(done + 2), *words[8:], "--quiet"]) == 0
    assert Store.open(out).complete()[: done + 2].all()


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
