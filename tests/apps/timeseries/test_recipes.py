"""The recipes of `configs/timeseries/ttm` fit the networks that they start from."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

import pytest
import yaml

from apps.timeseries import about_data
from core.checkpoints.networks import instantiate
from core.cli.arguments import merged
from core.cli.inheritance import with_network_options
from core.files import configs_folder


def arguments(recipe: str) -> dict[str, Any]:
    """Return the task's arguments in a recipe."""
    path = configs_folder() / "timeseries" / "ttm" / f"{recipe}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["init_args"]


@pytest.mark.parametrize("parent", ["pretrain", "demo"])
def test_what_the_exogenous_recipe_reinitialises_is_what_its_parent_lacks(parent: str) -> None:
    network, recipe = arguments(parent)["network"], arguments("finetune_exogenous")
    old = set(instantiate(network, where="parent").state_dict())
    new = set(instantiate(merged(network, recipe["network"]), where="recipe").state_dict())
    matched = {key for key in new for pattern in recipe["reinitialise"] if fnmatch(key, pattern)}
    assert old < new
    assert matched == new - old


@pytest.mark.parametrize("recipe", ["finetune_head", "finetune_few_shot"])
def test_head_only_recipes_train_decoder_and_head_and_nothing_else(recipe: str) -> None:
    network = instantiate(arguments("pretrain")["network"], where="parent")
    parts = arguments(recipe)["adaptation"]["init_args"]["head"]
    assert {name for name, _ in network.named_children()} == {*parts, "backbone"}


def test_scratch_and_pre_trained_few_shot_runs_have_the_same_network() -> None:
    scratch, parent = arguments("scratch_few_shot")["network"], arguments("pretrain")["network"]
    assert scratch == parent


@pytest.mark.parametrize(
    ("options", "bound"),
    [
        ([], False),
        (["--model.network.decoder.width=8"], False),
        (["--model.network.decoder.channel_mixing=true"], True),
        (["--model.network.init_args.decoder.init_args.channel_mixing", "true"], True),
        (["--model.network.forecast_mixing.context=2"], True),
    ],
)
def test_channel_mixing_that_is_typed_keeps_the_roles_of_columns(options: list[str], bound: bool) -> None:
    config = with_network_options({"model": {"init_args": arguments("demo")}}, options)

    assert ("targets" not in about_data(config)) is bound
