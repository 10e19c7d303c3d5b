"""The HLAT recipe: its numbers, and the network it builds without the memory of its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from apps.music.models.hlat import hlat_7b, hlat_70b
from core.checkpoints.files import read_checkpoint
from core.checkpoints.networks import home_of, instantiate
from core.cli import main
from core.optim import FlooredCosine, parameter_groups


@pytest.fixture(scope="module")
def recipe(repository: Path) -> dict:
    """The recipe as read."""
    return yaml.safe_load((repository / "configs/music/llama/hlat_7b.yaml").read_text())


@pytest.fixture(scope="module")
def network(recipe: dict) -> torch.nn.Module:
    """Its network on the meta device."""
    with torch.device("meta"):
        return instantiate(recipe["model"]["init_args"]["network"], where="the recipe")


def test_the_recipe_builds_the_published_size_on_the_meta_device(network):
    assert sum(p.numel() for p in network.parameters()) == 6_738_415_616
    assert all(p.is_meta for p in network.parameters())
    assert network.settings["initial_std"] == 0.021
    assert len(list(network.blocks())) == 32


def test_the_larger_size_groups_its_heads():
    with torch.device("meta"):
        large = hlat_70b()

    assert sum(p.numel() for p in large.parameters()) == 68_976_648_192
    assert large.layers[0].self_attn.k_proj.weight.shape == (1024, 8192)
    assert large.settings["scaled_residual"]


def test_residual_projections_begin_smaller_where_asked():
    small = {"vocabulary": 50, "width": 64, "depth": 2, "heads": 8, "kv_heads": 8, "ffn": 128, "context": 8}
    torch.manual_seed(0)
    plain, scaled = hlat_7b(**small), hlat_70b(**small)

    assert plain.layers[0].mlp.down_proj.weight.std().item() == pytest.approx(0.021, rel=0.1)
    assert scaled.layers[0].mlp.down_proj.weight.std().item() == pytest.approx(0.0105, rel=0.1)
    assert scaled.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.021, rel=0.1)


def test_checkpoints_of_it_are_read_in_llamas_layouts(network):
    assert home_of(network).__name__ == "core.checkpoints.official.llama"


def test_the_recipe_has_the_published_numbers(recipe):
    model, data, trainer = (
        recipe[part].get("init_args", recipe[part]) for part in ("model", "data", "trainer")
    )

    assert model["optimizer"]["init_args"] == {
        "lr": 3e-4,
        "betas": [0.9, 0.95],
        "eps": 1e-8,
        "weight_decay": 0.1,
    }
    schedule = FlooredCosine(**model["schedule"]["init_args"])
    assert [schedule.factor(step, 500_000) for step in (0, 2000, 450_000)] == [0.0, 1.0, 0.1]
    rows = data["batch_size"] * trainer["accumulate_grad_batches"]
    assert rows * data["context"] == 4_194_304
    assert trainer["precision"] == "bf16-true"
    assert trainer["gradient_clip_val"] == 1.0


def test_the_mesh_keeps_the_global_batch(repository, recipe):
    mesh = yaml.safe_load((repository / "configs/music/mesh/hlat_7b.yaml").read_text())["trainer"]
    sizes = mesh["strategy"]["init_args"]
    groups = mesh["num_nodes"] * mesh["devices"] // sizes["tensor"]

    assert groups * mesh["accumulate_grad_batches"] * recipe["data"]["init_args"]["batch_size"] == 1024
    assert (sizes["tensor"], sizes["sequence"], sizes["checkpointing"]) == (8, True, "selective")


@pytest.mark.slow
def test_the_recipe_runs_with_a_small_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = """music fit --config llama/hlat_7b --data.card python_text:topics --data.context=64
        --model.network.vocabulary=257 --model.network.width=64 --model.network.depth=1
        --model.network.heads=4 --model.network.ffn=128 --trainer.max_steps=3
        --trainer.accumulate_grad_batches=4 --trainer.val_check_interval=8"""

    assert main(words.split()) == 0

    (run,) = (tmp_path / "runs/music/hlat-hlat_7b").iterdir()
    weights = read_checkpoint(next((run / "checkpoints").glob("last*")))["state_dict"]
    assert weights["network.embed_tokens.weight"].dtype == torch.bfloat16


def test_norms_are_not_decayed(network, recipe):
    groups = parameter_groups(network, weight_decay=0.1, no_decay=recipe["model"]["init_args"]["no_decay"])
    decay = {group["name"]: group["weight_decay"] for group in groups}

    assert decay == {"decay": 0.1, "no_decay": 0.0}
    assert sum(p.numel() for p in groups[-1]["params"]) in (65 * 4096, 6_738_415_616 - 65 * 4096)
