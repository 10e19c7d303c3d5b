"""`dfm doctor` says what is here, what is missing and how to get it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.cli import doctor, main
from core.errors import UserError


def distribution(folder: Path, name: str, version: str) -> None:
    """Lay down the metadata of an installed distribution, as pip would."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
    )


@pytest.fixture(scope="module", autouse=True)
def switches_off_afterwards() -> Iterator[None]:
    """Leave this process as slow as it was: the report turns the switches on to see what they do."""
    from core.accelerators import cpu

    yield
    cpu.apply(
        cpu.CPUSwitches(allocator=False, onednn_matmul=False, fast_dropout=False, fused_optimizer=False)
    )


@pytest.fixture(scope="module")
def report() -> dict[str, object]:
    return doctor.examine()


def test_report_is_plain_and_covers_every_section(report: dict) -> None:
    assert json.loads(json.dumps(report)) == report
    assert set(report) == {
        "versions", "devices", "accelerators", "memory", "disk", "switches", "packages",
        "tracking", "healthy", "advice",
    }  # fmt: skip
    assert set(report["devices"]) == {"cpu", "cuda", "mps", "neuron"}
    assert report["healthy"] is True


def test_versions_are_those_installed(report: dict) -> None:
    import torch

    assert report["versions"]["torch"] == torch.__version__.split("+")[0]
    assert all(re.match(r"\d+\.", report["versions"][name]) for name in doctor.SHOWN)


def test_cpu_and_memory_are_counted(report: dict) -> None:
    cpu, memory = report["devices"]["cpu"], report["memory"]
    assert 0 < cpu["usable_cores"] <= cpu["cores"]
    assert 0 < memory["available_gib"] <= memory["total_gib"]


def test_each_switch_says_whether_it_is_on_and_why(report: dict) -> None:
    assert {"allocator", "onednn_matmul", "fast_dropout", "fused_optimizer", "threads"} <= set(
        report["switches"]
    )
    assert all(isinstance(state["on"], bool) and state["reason"] for state in report["switches"].values())


def test_each_extra_of_the_project_is_looked_at(report: dict) -> None:
    assert {"base", "timeseries", "remote-sensing", "weather"} <= set(report["packages"])
    assert report["packages"]["timeseries"]["present"]["pandas"]


def test_missing_and_too_old_packages_are_named_with_the_way_to_get_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = {"base": {"numpy": ">=2"}, "birds": {"no-such-reader": "", "numpy": ">=900"}}
    monkeypatch.setattr(doctor, "requirements", lambda: wanted)
    found = doctor.examine()
    assert found["packages"]["birds"]["missing"] == ["no-such-reader"]
    assert any(re.search(r"For birds .* lacks no-such-reader: .*install", line) for line in found["advice"])
    assert any(re.search(r"numpy \S+ is not >=900: .*install", line) for line in found["advice"])
    assert found["healthy"] is True


@pytest.mark.parametrize(
    ("version", "words"),
    [("1.0", "empty placeholder"), ("1.13.1", "old XLA generation"), ("2.3.3.0", "made for torch 2.3")],
)
def test_neuron_package_that_cannot_work_is_recognised(
    version: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution(tmp_path, "torch-neuronx", version)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = doctor.examine()
    assert found["devices"]["neuron"]["torch_neuronx"] == version
    assert found["devices"]["neuron"]["available"] is False
    assert len([line for line in found["advice"] if words in line]) == 1


def test_key_of_the_tracker_is_noticed_and_never_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    doctor.main([])
    doctor.main(["--json"])
    printed = capsys.readouterr().out
    assert "key found" in printed
    assert "0123456789abcdef" not in printed


def test_absent_key_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert doctor.examine()["tracking"]["wandb_key"] is False


def test_data_folder_is_the_one_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFM_DATA", str(tmp_path / "data"))
    place = doctor.examine()["disk"]["data"]
    assert place["folder"] == str(tmp_path / "data")
    assert place["exists"] is False
    assert place["free_gib"] > 0


def test_printed_page_shows_every_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    heads = [line for line in printed.splitlines() if not line.startswith(" ")]
    assert heads[:6] == ["Versions", "Devices", "Disk", "CPU switches", "Packages", "Tracking"]


def test_unknown_option_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UserError, match="did you mean '--json'"):
        doctor.main(["--jsn"])
