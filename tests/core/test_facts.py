"""Typed facts: to plain containers and back, refused where they do not fit, kept by a task's normaliser."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from core.data.facts import Facts
from core.data.normaliser import Normaliser, stored_facts
from core.errors import UserError


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of one channel."""

    mean: float
    std: float


@dataclass(frozen=True, kw_only=True)
class FieldsSeen(Facts):
    """Facts as a domain has them."""

    names: tuple[str, ...]
    scales: dict[str, Scale] = field(default_factory=dict)
    weights: Tensor | None = None
    limit: int | None = None


SEEN = FieldsSeen(names=("a", "b"), scales={"a": Scale(1.0, 2.5)}, weights=torch.arange(3.0), limit=4)


def test_plain_containers_give_the_facts_again_with_their_types() -> None:
    back = FieldsSeen.from_plain(SEEN.plain())

    assert back.names == ("a", "b") and back.scales == {"a": Scale(1.0, 2.5)} and back.limit == 4
    assert torch.equal(back.weights, SEEN.weights)


@given(
    names=st.lists(st.text(max_size=5), max_size=4),
    scales=st.dictionaries(st.text(max_size=5), st.tuples(st.floats(), st.floats()), max_size=3),
)
def test_any_facts_survive_the_way_through_plain_containers(names, scales) -> None:
    facts = FieldsSeen(names=tuple(names), scales={name: Scale(*pair) for name, pair in scales.items()})

    assert repr(FieldsSeen.from_plain(facts.plain())) == repr(facts)


def test_numbers_of_numpy_become_pythons_and_arrays_tensors() -> None:
    facts = FieldsSeen(names=(), scales={"a": Scale(np.float64(1.5), 2.0)}, weights=np.arange(2.0))

    plain = facts.plain()

    assert type(plain["scales"]["a"]["mean"]) is float
    assert torch.equal(plain["weights"], torch.arange(2.0, dtype=torch.float64))


def test_plain_facts_share_no_memory_with_their_own() -> None:
    plain = SEEN.plain()

    plain["weights"].add_(1)

    assert SEEN.weights[0] == 0


def test_what_is_not_plain_is_refused_with_its_path() -> None:
    with pytest.raises(TypeError, match=r"facts\.scales\.a is a object"):
        FieldsSeen(names=(), scales={"a": object()}).plain()


@pytest.mark.parametrize(
    ("held", "sentence"),
    [
        ({}, "names: field required"),
        ({"names": ["a"], "colour": 1}, "colour"),
        ({"names": ["a"], "scales": {"a": {"mean": "tall", "std": 1.0}}}, r"scales\.a\.mean"),
    ],
)
def test_facts_of_other_data_are_refused_naming_the_field(held, sentence) -> None:
    with pytest.raises(UserError, match=f"run.ckpt does not hold the facts .*{sentence}"):
        FieldsSeen.from_plain(held, where="run.ckpt")


def test_facts_survive_a_checkpoint_read_with_weights_only(tmp_path) -> None:
    task, other = nn.Module(), nn.Module()
    task.normaliser = Normaliser(FieldsSeen, SEEN)
    torch.save(task.state_dict(), tmp_path / "file")
    other.normaliser = Normaliser(FieldsSeen)

    other.load_state_dict(torch.load(tmp_path / "file", weights_only=True))

    assert list(task.state_dict()) == ["normaliser._extra_state"]
    assert other.normaliser.facts.scales == SEEN.scales
    assert stored_facts(task.state_dict(), FieldsSeen, where="file").names == SEEN.names


def test_a_task_that_knows_nothing_says_so_and_saves_nothing() -> None:
    normaliser = Normaliser(FieldsSeen)

    assert not normaliser.known and normaliser.get_extra_state() == {}
    with pytest.raises(UserError, match="nothing is known of the data yet"):
        normaliser.facts  # noqa: B018


def test_what_training_finds_is_added_and_what_is_not_plain_changes_nothing() -> None:
    normaliser = Normaliser(FieldsSeen, SEEN)

    normaliser.learn(limit=9)
    with pytest.raises(TypeError, match=r"facts\.limit"):
        normaliser.learn(limit=object())

    assert normaliser.facts.limit == 9 and SEEN.limit == 4


def test_casting_the_task_leaves_the_statistics_in_full_precision() -> None:
    normaliser = Normaliser(FieldsSeen, FieldsSeen(names=(), weights=torch.ones(2, dtype=torch.float64)))

    assert normaliser.to(torch.bfloat16).facts.weights.dtype == torch.float64
