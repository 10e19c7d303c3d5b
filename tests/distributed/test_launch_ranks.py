"""What launchers say of a process becomes its rank; what a recipe says must agree with it."""

from __future__ import annotations

import pytest
import torch

from core.errors import UserError
from core.resume.stopping import in_slurm, requeue
from core.strategies.launch import Launch, RankInfo, devices_and_strategy, job_info, rank_info
from core.strategies.processes import backend_for

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "first",
    "MASTER_PORT": "29500",
}
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "dfm",
    "SLURM_NTASKS": "4",
    "SLURM_NNODES": "2",
    "SLURM_PROCID": "0",
    "SLURM_NODELIST": "node[07-08]",
}
STARTED_BY_THE_FIRST = {
    "DFM_PROCESSES": "2",
    "WORLD_SIZE": "4",
    "NODE_RANK": "1",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "first",
    "MASTER_PORT": "29500",
}


@pytest.fixture(autouse=True)
def addresses(monkeypatch):
    """Lightning writes the address that it derives into the environment."""
    monkeypatch.setenv("MASTER_ADDR", "")
    monkeypatch.delenv("MASTER_ADDR")
    monkeypatch.setenv("MASTER_PORT", "")
    monkeypatch.delenv("MASTER_PORT")


def test_torchrun_says_where_a_process_stands():
    assert rank_info(TORCHRUN) == RankInfo("torchrun", 5, 8, 4, "first", 29500, False, "none", 2)


def test_rank_zero_serves_the_store_where_torchrun_does_not():
    without = TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "False", "RANK": "0"}
    assert rank_info(without).serves


def test_srun_says_where_a_process_stands(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert rank_info() == RankInfo("slurm", 0, 4, 2, "node07", 19711, True)


def test_the_first_process_says_where_one_it_started_stands():
    assert rank_info(STARTED_BY_THE_FIRST) == RankInfo("first", 3, 4, 2, "first", 29500, False)


@pytest.mark.parametrize(
    "alone",
    [
        {},
        TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_WORLD_SIZE": "1"},
        SLURM | {"SLURM_NTASKS": "1"},
        SLURM | {"SLURM_JOB_NAME": "interactive"},
        {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "4711"},
    ],
    ids=["nothing", "torchrun of one", "srun of one", "a shell of SLURM's", "no srun"],
)
def test_one_process_has_no_place_among_others(alone):
    assert rank_info(alone) is None


@pytest.mark.parametrize(
    ("found", "name", "again"),
    [
        (SLURM, "slurm-4711.0", False),
        (SLURM | {"SLURM_STEP_ID": "2", "SLURM_RESTART_COUNT": "1"}, "slurm-4711.2", True),
        (SLURM | TORCHRUN, "slurm-4711.0", False),
        (TORCHRUN | {"TORCHELASTIC_RUN_ID": "flow-7"}, "torchrun-flow-7", False),
    ],
)
def test_a_job_that_may_start_again_has_a_name(found, name, again):
    assert (job_info(found).name, job_info(found).again) == (name, again)


@pytest.mark.parametrize("drawn", ["none", "0f3c1b1e-8f0e-4b8a-9d27-3f3f5d3b2c11"])
def test_a_name_that_torchrun_draws_is_none(drawn):
    assert job_info(TORCHRUN | {"TORCHELASTIC_RUN_ID": drawn}) is None


@pytest.mark.parametrize(
    "given", [{}, {"devices": 1, "num_nodes": 1}, {"devices": "auto", "strategy": "auto"}]
)
def test_the_launcher_decides_on_the_sizes(given):
    filled = devices_and_strategy(given, rank_info(TORCHRUN))
    assert filled == {"devices": 4, "num_nodes": 2, "strategy": "ddp"}


def test_a_strategy_that_is_named_stays():
    strategy = {"class_path": "core.strategies.Mesh"}
    assert devices_and_strategy({"strategy": strategy}, rank_info(TORCHRUN))["strategy"] is strategy


def test_sizes_that_contradict_the_launcher_are_refused():
    with pytest.raises(UserError, match=r"trainer.devices is 3, but torchrun started 4 processes on each"):
        devices_and_strategy({"devices": 3}, rank_info(TORCHRUN))


def test_a_process_alone_keeps_its_sizes():
    assert devices_and_strategy({"devices": 3}, None) == {"devices": 3}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [({"timeout": 0}, "seconds above 0"), ({"requeue": ["USR2"]}, "did you mean 'USR1'")],
)
def test_what_launch_cannot_mean_is_refused(given, sentence):
    with pytest.raises(UserError, match=sentence):
        Launch(**given)


def test_signals_are_named_with_or_without_sig():
    assert Launch(requeue=["SIGUSR1", "term"]).requeue == ("USR1", "TERM")


def test_requeueing_without_slurm_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not in_slurm({})
    assert "no SLURM job" in requeue({})
    assert "job 4711_3 is not in the queue" in requeue(
        SLURM | {"SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "3"}
    )


def test_norms_of_what_lies_on_the_host_have_a_backend_there():
    assert backend_for(torch.device("cuda", 3)) == "nccl"
    assert backend_for(torch.device("cuda", 3), offload=True) == "cpu:gloo,cuda:nccl"
    assert backend_for(torch.device("cpu"), offload=True) == "gloo"
