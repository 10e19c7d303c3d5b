"""The parser and the objects of one run: one LightningCLI without sub-commands."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader, set_parsing_settings
from jsonargparse._common import parsing_settings
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import nn

from core.accelerators import cpu, cuda, neuron
from core.cli.arguments import Request, program, read_yaml
from core.cli.error_messages import explain
from core.errors import UserError
from core.strategies.launch import Launch, RankInfo, rank_info
from core.task import Task
from core.tracking.profiler import Profile
from core.tracking.settings import Tracking, without_secrets
from core.trainer import Checkpoints
from core.trust import check, check_options, parser_settings

__all__ = ["DomainCLI", "meta_network", "parse", "yaml_value"]

_YAML = get_loader("yaml")


class DomainCLI(LightningCLI):
    """The parser and the objects of one run; nothing is started here."""

    def __init__(self, request: Request, words: list[str]) -> None:
        super().__init__(
            Task,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            run=False,
            args=words,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_callback=None,
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False, "prog": program(request)},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Declare what a recipe may hold beside Lightning's own keys, and our defaults for the Trainer."""
        about = "what the recipe reproduces; not used in training"
        parser.add_argument("--about", type=dict, default={}, help=about)
        parser.add_argument("--runs", type=str, default="runs", help="folder of the run folders")
        groups = {"checkpoints": Checkpoints, "launch": Launch, "tracking": Tracking, "profile": Profile}
        groups |= {"cpu": cpu.CPUSwitches, "cuda": cuda.CUDASwitches, "neuron": neuron.NeuronSwitches}
        for name, settings in groups.items():
            parser.add_argument(f"--{name}", type=settings, default=settings())
        parser.set_defaults(
            {
                "trainer.use_distributed_sampler": False,
                "trainer.enable_model_summary": False,
                "trainer.log_every_n_steps": 10,
                "trainer.deterministic": "warn",
                "trainer.devices": 1,
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the words given, never `sys.argv`: processes of a multi-process run re-run that unchanged."""
        self.config = parser.parse_args(args)
        check(self.config.as_dict(), where="the recipe")
        seed = self.config.get("seed_everything")
        if isinstance(seed, int) and not 0 <= seed < 2**32:
            raise UserError(f"seed_everything is {seed}; it must be 0 to {2**32 - 1}")

    def instantiate_classes(self) -> None:
        """Build everything but the Trainer."""
        parsed = self.config
        try:
            self.config = meta_network(parsed, rank_info())
            super().instantiate_classes()
        finally:
            self.config = parsed

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The Trainer is built in `core.cli.run`, where the run folder is known."""
        return None  # type: ignore[return-value]

    def plain_config(self) -> Any:
        """Return the resolved config in plain containers, without secrets; it rebuilds the run."""
        return without_secrets(yaml.safe_load(self.parser.dump(self.config, skip_unset=False)))


def parse(request: Request, words: list[str]) -> DomainCLI:
    """Return parser and objects for the words of a command.

    Raises:
        UserError: For a mistake in them or in what they build.
    """
    _check_trust(request, words)
    try:
        with _parsing():
            cli = DomainCLI(request, words)
    except (argparse.ArgumentError, ValueError) as error:
        mistake = explain(error, _trainer_options)
        if mistake is None:
            raise
        raise mistake from error
    if cli.config["trainer"].get("accumulate_grad_batches", 1) == 0:
        raise UserError("trainer.accumulate_grad_batches is 0; it must be at least 1")
    return cli


def _check_trust(request: Request, words: list[str]) -> None:
    """Refuse what recipe, checkpoint or options may not name, before the parser imports anything."""
    files = [Path(word) for option, word in pairwise(words) if option == "--config"]
    source = str(request.configs[0] if request.configs else request.ckpt_path)
    for number, file in enumerate(files):
        check(read_yaml(file), where=str(file) if number else source)
    check_options([word for word in words if Path(word) not in files])


@contextmanager
def _parsing() -> Iterator[None]:
    """Set jsonargparse up for a run; parsers of the user's own in this process keep its defaults."""
    before = dict(parsing_settings)
    set_loader("yaml", yaml_value, (yaml.YAMLError,))
    set_parsing_settings(**parser_settings())
    try:
        yield
    finally:
        set_loader("yaml", _YAML, (yaml.YAMLError,))
        parsing_settings.clear()
        parsing_settings.update(before)


def yaml_value(text: str) -> Any:
    """Return what an option's words mean.

    jsonargparse hands `null` on to a class within a class as Python's `None`, which YAML takes for a name.
    """
    return None if text == "None" else _YAML(text)


def meta_network(config: Namespace, info: RankInfo | None) -> Namespace:
    """Return a parsed config in which the network stands built, on the meta device, if this process may.

    Where the mesh shards weights, parameters come from the first process (`core.strategies.initialisation`),
    so the others need memory for their own shards alone.
    """
    network, strategy = config.get("model.init_args.network"), config.get("trainer.strategy")
    mesh = isinstance(strategy, Namespace) and str(strategy.get("class_path")).endswith("Mesh")
    sizes = (strategy.get("init_args") or Namespace()) if mesh else Namespace()
    sharded = any(sizes.get(axis, 1) != 1 for axis in ("shard", "tensor"))
    if info is None or info.rank == 0 or not sharded or not isinstance(network, Namespace):
        return config
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=nn.Module)
    with torch.device("meta"):
        build = getattr(parser, "instantiate", None) or parser.instantiate_classes  # the first since 4.49
        built = build(Namespace(network=network.clone())).network
    changed = config.clone()
    changed["model.init_args.network"] = built
    return changed


def _trainer_options() -> list[str]:
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(pl.Trainer, "trainer")
    return [action.dest for action in parser._actions if action.dest]
