"""The runner of recorded cases: verdicts, exit codes, and what a user sees of a mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.parity import Case, known_cases, main, run_case

Handler = Callable[[Case], Mapping[str, Any]]

HEAD = {
    "format": "parity-1",
    "system": "toy",
    "kind": "doubling",
    "case": "one",
    "config": {},
    "tolerance": {"output": {"rtol": 1e-4, "atol": 1e-5}, "integer": "exact"},
}


def _write(folder: Path, tensors: dict[str, torch.Tensor], **changes: object) -> Path:
    path = folder / "one.json"
    path.write_text(json.dumps({**HEAD, **changes}))
    if tensors:
        save_file(tensors, path.with_suffix(".safetensors"))
    return path


def _known(handler: Handler) -> dict[tuple[str, str], Handler]:
    return {("toy", "doubling"): handler}


def _double(case: Case) -> dict[str, torch.Tensor]:
    return {"output/y": 2 * case.group("input")["x"]}


_RECIPES = [
    f"recipes/{name}.json" for name in ("schedules", "packed_attention", "data_efficiency", "multigrid")
]


@pytest.mark.parametrize("switches", ["all-on", "all-off"])
@pytest.mark.parametrize("system", ["tinytimemixer", "forecast_metrics", *_RECIPES])
def test_recorded_cases_pass_with_every_switch_on_and_off(
    shared: Path, system: str, switches: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([str(shared / "parity" / system), "--cpu", switches])

    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "FAIL" not in printed


def test_a_wrong_weight_fails_and_says_which_output(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = shared / "parity/tinytimemixer/channel_independent_adaptive.json"
    tensors = load_file(original.with_suffix(".safetensors"))
    tensors["state/head.base_forecast_block.bias"] += 0.01
    (tmp_path / "case.json").write_text(original.read_text())
    save_file(tensors, tmp_path / "case.safetensors")

    code = main([str(tmp_path)])

    lines = capsys.readouterr().out.splitlines()
    assert code == 1
    assert any("output/prediction_outputs" in line and line.endswith("FAIL") for line in lines)
    assert any("output/backbone_hidden_state" in line and line.endswith("PASS") for line in lines)


def test_an_unknown_system_exits_with_two_and_lists_the_known_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([str(_write(tmp_path, {"output/y": torch.zeros(1)}))])

    printed = capsys.readouterr().err
    assert code == 2
    assert "(toy, doubling)" in printed
    assert "(tinytimemixer, tinytimemixer)" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no case"),
        ("{", "cannot be read"),
        ("[]", "no recorded case"),
        ('{"format": "parity-9"}', "has the format 'parity-9'"),
        ('{"format": "parity-1", "system": "a"}', "lacks kind, case, tolerance"),
    ],
)
def test_a_file_that_is_no_case_exits_with_two_and_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    path = tmp_path / "case.json"
    if content is not None:
        path.write_text(content)

    code = main([str(path)])

    printed = capsys.readouterr().err
    assert code == 2
    assert message in printed
    assert printed.count("\n") == 1


def test_damaged_tensors_exit_with_two(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = shared / "parity/tinytimemixer/masked_prediction.json"
    (tmp_path / "case.json").write_text(original.read_text())
    (tmp_path / "case.safetensors").write_bytes(original.with_suffix(".safetensors").read_bytes()[:5000])

    code = main([str(tmp_path / "case.json")])

    assert code == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_folder_without_cases_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "holds no recorded case" in capsys.readouterr().err


def test_a_mistake_is_answered_without_importing_torch(repository: Path) -> None:
    script = "import sys; from core.parity import main; main(['nope.json']); print('torch' in sys.modules)"

    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


def test_values_within_the_tolerance_of_the_largest_reference_pass(tmp_path: Path) -> None:
    reference = torch.tensor([100.0, 0.001])
    path = _write(tmp_path, {"output/y": reference})

    near = run_case(path, known=_known(lambda case: {"output/y": reference + 0.009}))
    far = run_case(path, known=_known(lambda case: {"output/y": reference + 0.011}))

    assert near.passed
    assert not far.passed


def test_integers_must_be_equal(tmp_path: Path) -> None:
    path = _write(tmp_path, {"output/y": torch.tensor([1, 2, 3])})

    report = run_case(path, known=_known(lambda case: {"output/y": torch.tensor([1, 2, 4])}))

    assert not report.passed
    assert report.checks[0].largest == 1


@pytest.mark.parametrize("note", [{"y": 0.5}, {"outputs_abs": 0.5}, {"y_abs": 0.5}, {"y": "0.5 relative"}])
def test_a_note_that_loosens_an_output_decides(tmp_path: Path, note: dict[str, object]) -> None:
    path = _write(tmp_path, {"output/y": torch.ones(2)}, tolerance_note=note)

    assert run_case(path, known=_known(lambda case: {"output/y": torch.ones(2) + 0.4})).passed


@pytest.mark.parametrize(
    "note", [{"other": 0.5}, {"y": 1e-9}, {"y": "exact"}, "1e-2 relative", {"grad_abs": 0.5}]
)
def test_a_note_about_something_else_does_not(tmp_path: Path, note: object) -> None:
    path = _write(tmp_path, {"output/y": torch.ones(2)}, tolerance_note=note)

    assert not run_case(path, known=_known(lambda case: {"output/y": torch.ones(2) + 0.4})).passed
    assert run_case(path, known=_known(lambda case: {"output/y": torch.ones(2) + 1e-5})).passed


def test_a_result_that_was_not_computed_fails(tmp_path: Path) -> None:
    report = run_case(_write(tmp_path, {"output/y": torch.ones(2)}), known=_known(lambda case: {}))

    assert [check.remark for check in report.checks] == ["not computed"]
    assert not report.passed


def test_not_a_number_must_be_where_it_was_recorded(tmp_path: Path) -> None:
    reference = torch.tensor([1.0, torch.nan, torch.inf])
    path = _write(tmp_path, {"output/y": reference})

    assert run_case(path, known=_known(lambda case: {"output/y": reference.clone()})).passed
    assert not run_case(path, known=_known(lambda case: {"output/y": torch.ones(3)})).passed
    assert not run_case(path, known=_known(lambda case: {"output/y": reference * torch.nan})).passed


def test_a_case_of_json_alone_compares_what_its_head_holds(tmp_path: Path) -> None:
    def handler(case: Case) -> dict[str, torch.Tensor]:
        case.expect("output/cuts", case.head["cuts"])
        return {"output/cuts": torch.tensor([1.0, 2.0])}

    report = run_case(_write(tmp_path, {}, cuts=[1.0, 2.0]), known=_known(handler))

    assert report.passed


def test_complex_weights_are_read_as_such(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        {"state/w": torch.randn(3, 2), "input/x": torch.randn(3), "output/y": torch.zeros(3)},
        complex_state=["w"],
    )
    seen: list[bool] = []

    def handler(case: Case) -> dict[str, torch.Tensor]:
        seen.append(case.state()["w"].is_complex())
        return {"output/y": torch.zeros(3)}

    assert run_case(path, known=_known(handler)).passed
    assert seen == [True]


def test_every_handler_found_is_callable() -> None:
    known = known_cases()

    assert ("tinytimemixer", "tinytimemixer") in known
    assert all(callable(handler) for handler in known.values())
