"""The recipes of `configs/timeseries/ttm` fit the networks that they start from."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

import pytest
import yaml

from apps.timeseries.models.ttm import TTM
from core.files import configs_folder


def arguments(recipe: str) -> dict[str, Any]:
    """Return the task's arguments in a recipe."""
    path = configs_folder() / "timeseries" / "ttm" / f"{recipe}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["init_args"]


@pytest.mark.parametrize("parent", ["pretrain", "demo"])
def test_what_the_exogenous_recipe_reinitialises_is_what_its_parent_lacks(parent: str) -> None:
    sizes = arguments(parent)["network"]["init_args"]
    recipe = arguments("finetune_exogenous")
    old = set(TTM(**sizes).state_dict())
    new = set(TTM(**{**sizes, **recipe["network"]["init_args"]}).state_dict())
    matched = {key for key in new for pattern in recipe["reinitialise"] if fnmatch(key, pattern)}
    assert old < new
    assert matched == new - old


@pytest.mark.parametrize("recipe", ["finetune_head", "finetune_few_shot"])
def test_head_only_recipes_train_decoder_and_head_and_nothing_else(recipe: str) -> None:
    sizes = arguments("pretrain")["network"]["init_args"]
    network = TTM(**sizes)
    parts = arguments(recipe)["adaptation"]["init_args"]["head"]
    assert {name for name, _ in network.named_children()} == {*parts, "backbone"}


def test_scratch_and_pre_trained_few_shot_runs_have_the_same_network() -> None:
    scratch, parent = arguments("scratch_few_shot")["network"], arguments("pretrain")["network"]
    assert scratch == parent
