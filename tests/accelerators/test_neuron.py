"""Neuron as far as it goes without Trainium: on a stand-in for the device, in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("neuron_run.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the runs in the other process left."""
    folder = tmp_path_factory.mktemp("neuron")
    done = subprocess.run(
        [sys.executable, SCRIPT, folder],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads((folder / "results.json").read_text())


def test_twenty_steps_equal_those_on_the_cpu(results: dict[str, Any]) -> None:
    cpu, neuron = results["cpu"], results["neuron"]

    assert (cpu["code"], neuron["code"]) == (0, 0), cpu["err"] + neuron["err"]
    assert len(cpu["losses"]) == 20
    assert neuron["losses"] == pytest.approx(cpu["losses"], abs=1e-6)


def test_resumed_run_has_the_losses_of_the_unbroken_one(results: dict[str, Any]) -> None:
    resumed = results["resumed"]

    assert resumed["code"] == 0, resumed["err"]
    assert "step 11/20" in resumed["out"] and "step 10/20" not in resumed["out"]
    assert resumed["losses"] == results["neuron"]["losses"]


@pytest.mark.parametrize(
    ("device", "precision"), [("cpu", "bf16-mixed"), ("neuron", "bf16-mixed"), ("neuron", "bf16-true")]
)
def test_bfloat16_is_what_the_step_computes_in(results: dict[str, Any], device: str, precision: str) -> None:
    run = results["mixed"][f"{device} {precision}"]

    assert run["code"] == 0, run["err"]
    assert run["seen"] == [f"{device} torch.bfloat16"]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("other plug-in", "casts on cuda, so that Neuron would train in float32"),
        ("other device", "runs on cpu and trainer.accelerator is neuron"),
        ("float64", "computes float64 as float32"),
        ("fork", "cannot be forked"),
        ("notebook", "cannot be forked"),
        ("too many", "this machine has 2"),
        ("none", "trainer.devices is 0"),
        ("words", "trainer.devices is 'two'"),
    ],
)
def test_what_would_go_wrong_in_silence_is_refused(results: dict[str, Any], what: str, words: str) -> None:
    assert words in results["refused"][what]


def test_devices_are_named_as_a_number_or_a_list(results: dict[str, Any]) -> None:
    assert results["devices"] == {
        "1": [0], "2": [0, 1], "-1": [0, 1], "0,1": [0, 1], "1,": [1], "[1]": [1],
    }  # fmt: skip
    assert results["strategy of two"] == "ddp"


def test_auto_takes_neuron_first(results: dict[str, Any]) -> None:
    assert results["auto"] == "neuron"


def test_memory_is_read_after_the_queued_work_and_comes_flat(results: dict[str, Any]) -> None:
    assert results["calls"] == ["synchronize", "memory_stats"]
    assert results["figures"]["allocated_bytes.peak"] == 3 * 2**30
    assert results["neuron"]["peak_gib"] == [3.0] * 20


def test_mfu_is_taken_of_one_logical_core(results: dict[str, Any]) -> None:
    assert results["cpu"]["mfu"] == []
    assert all(0 < share < 1 for share in results["neuron"]["mfu"])
    assert len(results["neuron"]["mfu"]) == 19


def test_operations_left_to_the_cpu_are_named_once(results: dict[str, Any]) -> None:
    lines = [line for line in results["neuron"]["out"].splitlines() if "computed on the CPU" in line]

    assert lines == ["computed on the CPU, not on Neuron: aten::nonzero, aten::unique_consecutive"]


def test_the_device_s_random_stream_is_kept(results: dict[str, Any]) -> None:
    assert results["streams"] is True


@pytest.mark.slow
def test_two_ranks_train_as_one_process(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = SCRIPT.with_name("neuron_ranks.py")
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, script, tmp_path],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=240)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors[0][-3000:] + errors[1][-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))

    assert first["weights"] == second["weights"]
    for own, alone in zip(first["weights"], first["alone"], strict=True):
        assert own == pytest.approx(alone, abs=1e-6)
    assert (first["places"], second["places"]) == (["neuron:0"], ["neuron:0"])
    assert first["backend"] == "neuron"
    assert first["calls"].index("process_group") < first["calls"].index("set_device")
    assert first["streams"] == 2
