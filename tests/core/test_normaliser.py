"""Facts that travel with a checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from core.data.normaliser import PlainNormaliser


def test_facts_survive_a_checkpoint_read_with_weights_only(tmp_path):
    task = nn.Module()
    series = {"x": {"mean": [1.0], "scale": torch.ones(3)}}
    task.normaliser = PlainNormaliser({"channels": ["a", "b"], "series": series})
    torch.save(task.state_dict(), tmp_path / "file")
    other = nn.Module()
    other.normaliser = PlainNormaliser(
        {"channels": ["c"], "old": 1, "series": {"y": {"scale": torch.zeros(7)}}}
    )

    other.load_state_dict(torch.load(tmp_path / "file", weights_only=True))

    assert other.normaliser["channels"] == ["a", "b"]
    assert other.normaliser["series"]["x"]["scale"].shape == (3,)
    assert "old" not in other.normaliser and other.normaliser.get("old", 5) == 5
    assert list(task.state_dict()) == ["normaliser._extra_state"]


def test_update_adds_and_replaces_and_shares_no_memory():
    mean = torch.zeros(2)
    normaliser = PlainNormaliser({"mean": mean, "horizon": 96})

    normaliser.update({"horizon": 192, "size": (3, 4), "array": np.arange(3.0), "number": np.float64(2.5)})
    mean.add_(1)

    assert normaliser["horizon"] == 192 and normaliser["size"] == [3, 4]
    assert normaliser["mean"].tolist() == [0.0, 0.0]
    assert torch.equal(normaliser["array"], torch.arange(3.0, dtype=torch.float64))
    assert type(normaliser["number"]) is float


def test_casting_the_task_leaves_the_statistics_in_full_precision():
    normaliser = PlainNormaliser({"mean": torch.ones(2, dtype=torch.float64)})

    assert normaliser.to(torch.bfloat16)["mean"].dtype == torch.float64


def test_what_is_not_plain_is_refused_with_its_path_and_changes_nothing():
    normaliser = PlainNormaliser({"a": 1})

    with pytest.raises(TypeError, match=r"facts\.b\.0\.c is a object"):
        normaliser.update({"a": 2, "b": [{"c": object()}]})
    with pytest.raises(TypeError, match="key"):
        normaliser.update({"b": {(1, 2): 3}})

    assert dict(normaliser.facts) == {"a": 1}


def test_an_unknown_fact_lists_the_known_ones():
    with pytest.raises(KeyError, match="no fact 'horizn'; there are context, horizon"):
        PlainNormaliser({"horizon": 1, "context": 2})["horizn"]


def test_facts_are_read_only():
    with pytest.raises(TypeError):
        PlainNormaliser({"a": 1}).facts["a"] = 2
