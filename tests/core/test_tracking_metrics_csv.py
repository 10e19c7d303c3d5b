"""The durable record: appended, mended, rewound, never truncated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from lightning.pytorch.utilities import rank_zero_only

from core.tracking.metrics_csv import MetricsCSV, read_metrics


def test_rows_read_back_exactly_and_in_order(tmp_path):
    logger = MetricsCSV(tmp_path)

    logger.log_metrics({"loss": 0.1 + 0.2, "epoch": 0}, step=0)
    logger.log_metrics({"loss": float("inf"), "epoch": 0}, step=1)

    assert read_metrics(tmp_path) == [
        {"step": 0, "epoch": 0, "loss": 0.1 + 0.2},
        {"step": 1, "epoch": 0, "loss": float("inf")},
    ]


def test_a_row_is_on_disk_as_soon_as_it_is_logged(tmp_path):
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"loss": 1.5}, step=0)

    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n0,1.5\n"


def test_a_new_metric_adds_a_column_and_keeps_the_rows(tmp_path):
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"train/loss": 2.0}, step=0)
    logger.log_metrics({"val/loss": 3.0, "epoch": 0}, step=0)
    logger.log_metrics({"train/loss": 1.0}, step=1)

    text = (tmp_path / "metrics.csv").read_text()
    assert text == "step,epoch,train/loss,val/loss\n0,,2.0,\n0,0,,3.0\n1,,1.0,\n"


def test_a_second_run_into_the_folder_keeps_the_earlier_rows(tmp_path):
    MetricsCSV(tmp_path).log_metrics({"loss": 2.0}, step=0)
    MetricsCSV(tmp_path).log_metrics({"loss": 1.0}, step=0)

    assert [row["loss"] for row in read_metrics(tmp_path)] == [2.0, 1.0]


def test_a_line_cut_by_a_kill_is_removed_when_the_file_is_opened_again(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss\n0,2.0\n1,1.")

    MetricsCSV(tmp_path).log_metrics({"loss": 1.5}, step=1)

    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n0,2.0\n1,1.5\n"


def test_rewinding_drops_the_rows_that_will_come_again(tmp_path):
    logger = MetricsCSV(tmp_path)
    for step in range(5):
        logger.log_metrics({"loss": float(step)}, step=step)

    dropped = MetricsCSV(tmp_path).rewind(3)

    assert dropped == 2
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1, 2]


def test_ranks_above_zero_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)

    MetricsCSV(tmp_path).log_metrics({"loss": 1.0}, step=0)

    assert not (tmp_path / "metrics.csv").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a device that is always full")
def test_a_full_disk_is_an_error_and_not_a_broken_file(tmp_path):
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=0)
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "metrics.csv").symlink_to("/dev/full")

    with pytest.raises(OSError):
        logger.log_metrics({"loss": 2.0}, step=1)


def test_rows_survive_kill_9(tmp_path):
    script = (
        "import itertools\n"
        "from core.tracking.metrics_csv import MetricsCSV\n"
        f"logger = MetricsCSV({str(tmp_path)!r})\n"
        "for step in itertools.count():\n"
        "    logger.log_metrics({'loss': step / 7}, step=step)\n"
        "    print(step, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    told = [int(process.stdout.readline()) for _ in range(200)]
    process.send_signal(signal.SIGKILL)
    process.wait()

    rows = read_metrics(tmp_path)

    assert len(rows) >= len(told)
    assert [row["loss"] for row in rows] == [step / 7 for step in range(len(rows))]


def test_writing_a_row_takes_no_time_worth_mentioning(tmp_path):
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"loss": 0.0, "lr": 1e-3}, step=0)

    began = time.perf_counter()
    for step in range(1, 501):
        logger.log_metrics({"loss": 1 / step, "lr": 1e-3}, step=step)

    assert (time.perf_counter() - began) / 500 < 5e-3
