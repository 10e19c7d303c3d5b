"""A user's mistake is said once and ends every process with 2, whoever sees it and whoever started them."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.timeout(600)
LATE = "dfm: there is no file flows.zarr on the machine of rank"


def test_a_mistake_that_all_make_is_said_once(launching, tmp_path):
    words = launching.words(tmp_path, "--model.widht=3")
    end = launching.outcome(*launching.srun(tmp_path, [words, words]))
    assert end.codes == [2, 2]
    assert len(launching.sentences(end.out)) == 1
    assert "unknown key 'widht'" in end.out


@pytest.mark.slow
def test_a_mistake_that_one_makes_at_once_ends_the_other(launching, tmp_path):
    words = launching.words(tmp_path)
    end = launching.outcome(*launching.srun(tmp_path, [words, [*words, "--config", "none.yaml"]]))
    assert end.codes == [2, 2], end.out
    assert len(launching.sentences(end.out)) == 1
    assert "recipe 'none.yaml' is neither" in end.out


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_mistake_that_one_finds_in_its_data_ends_the_other(launching, tmp_path, rank):
    words = launching.words(tmp_path, strike=("Err", {"rank": rank}))
    end = launching.outcome(*launching.srun(tmp_path, [words, words]))
    assert end.codes == [2, 2], end.out
    assert launching.sentences(end.out) == [f"{LATE} {rank}"]
    assert not list(tmp_path.glob("runs/timeseries/*/*"))  # nothing came of it


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_mistake_ends_the_processes_that_the_first_has_started(launching, tmp_path, rank):
    words = launching.words(tmp_path, strike=("Err", {"rank": rank}))
    end = launching.outcome(launching.first_process(tmp_path, words))
    assert end.codes == [2], end.out
    assert launching.sentences(end.out) == [f"{LATE} {rank}"]


@pytest.mark.slow
def test_a_mistake_under_torchrun_ends_every_rank_with_two_and_no_restart_repeats_it(launching, tmp_path):
    words = launching.words(tmp_path, strike=("Err", {}))
    end = launching.outcome(launching.torchrun(tmp_path, words, "--standalone", "--max_restarts", 2))
    assert end.codes == [1], end.out  # torchrun's own
    assert launching.sentences(end.out) == [f"{LATE} 1"]
    assert end.out.count("exitcode  : 2") == 2
    assert end.out.count("exitcode  : 1") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--trainer.devices=3"], "trainer.devices is 3, but torchrun started 2 processes on each machine"),
        (["--trainer.accelerator=cuda"], "no CUDA device"),
        (["--trainer.accelerator=neuron"], "neuron"),
        (["--trainer.plugins=core.plugins.Compress"], "core.plugins"),
        (
            ["--trainer.strategy=core.strategies.Mesh", "--trainer.strategy.tensor=3"],
            "3",
        ),
    ],
    ids=["devices", "no such device", "no plug-in for the device", "no plug-in", "sizes"],
)
def test_what_does_not_fit_the_processes_is_said_once(launching, tmp_path, options, sentence):
    words = launching.words(tmp_path, *options)
    end = launching.outcome(launching.torchrun(tmp_path, words, "--standalone"))
    assert end.codes == [1], end.out
    assert len(launching.sentences(end.out)) == 1, end.out
    assert sentence in launching.sentences(end.out)[0]
    assert end.out.count("exitcode  : 2") == 2, end.out


@pytest.mark.slow
def test_a_checkpoint_of_another_network_is_refused_by_every_rank(launching, tmp_path):
    words = launching.words(tmp_path)
    made = launching.outcome(*launching.srun(tmp_path, [[*words, "--trainer.max_steps=2"]] * 2))
    assert made.codes == [0, 0], made.out
    wider = [*words, "--model.network.width=32", "--ckpt_path=last"]
    end = launching.outcome(*launching.srun(tmp_path, [wider, wider]))
    assert end.codes == [2, 2], end.out
    assert len(launching.sentences(end.out)) == 1, end.out
    assert "the checkpoint's network has other sizes" in end.out
