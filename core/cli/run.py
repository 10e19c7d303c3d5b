"""Runs `dfm <domain> fit|validate|test|predict`: one LightningCLI without sub-commands, then the Trainer's
method.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import shutil
import tempfile
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from jsonargparse import get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from core.accelerators import cpu, cuda, neuron
from core.accelerators.memory import is_out_of_memory, out_of_memory_advice
from core.backbones.adapters import is_adapter
from core.checkpoints.files import read_outline
from core.cli.again import agreed, choose, finished, patience
from core.cli.arguments import Request, program, read_yaml
from core.cli.building import bare_network
from core.cli.mistakes import explain, missing_extra
from core.cli.parents import inherited, merged, with_network_options
from core.cli.runs import INHERITED
from core.data.normaliser import STATE, stored_facts
from core.errors import UserError
from core.strategies.launch import Launch, rank_info, variables_kept
from core.strategies.processes import RunProcesses
from core.task import Task
from core.tracking import Profile, Tracking, quiet
from core.trainer import Checkpoints, Devices, build_trainer, describe

__all__ = ["run"]

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
        """Declare what a recipe may hold beside Lightning's own keys, and the suite's defaults for the
        Trainer.
        """
        parser.add_argument(
            "--about", type=dict, default={}, help="what the recipe reproduces; not used in training"
        )
        parser.add_argument("--runs", type=str, default="runs", help="folder of the run folders")
        parser.add_argument("--checkpoints", type=Checkpoints, default=Checkpoints())
        parser.add_argument("--launch", type=Launch, default=Launch())
        parser.add_argument("--tracking", type=Tracking, default=Tracking())
        parser.add_argument("--profile", type=Profile, default=Profile())
        parser.add_argument("--cpu", type=cpu.Switches, default=cpu.Switches())
        parser.add_argument("--cuda", type=cuda.Switches, default=cuda.Switches())
        parser.add_argument("--neuron", type=neuron.Switches, default=neuron.Switches())
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

    def instantiate_classes(self) -> None:
        """Build everything but the Trainer."""
        parsed = self.config
        try:
            self.config = bare_network(parsed, rank_info())
            super().instantiate_classes()
        finally:
            self.config = parsed

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The Trainer is built in `run`, where the run folder is known."""
        return None  # type: ignore[return-value]

    def plain_config(self) -> dict[str, Any]:
        """Return the resolved config in plain containers; it rebuilds the run."""
        return yaml.safe_load(self.parser.dump(self.config, skip_unset=False))


def run(request: Request) -> int:
    """Run one request and return its exit code; see `core.cli.main` for the codes.

    Raises:
        UserError: For a mistake in options, recipe, data or checkpoint.
    """
    quiet()
    inherited = INHERITED in os.environ
    processes = RunProcesses(rank_info(), timeout=patience(request))
    code = 1
    try:
        processes.gather()
        with variables_kept():
            code = _run(request, processes)
    except KeyboardInterrupt:
        code = 130
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except Exception as error:
        if processes.info is not None:
            code = processes.conclude(error)
        elif isinstance(error, UserError):
            raise
        else:
            traceback.print_exc()
    finally:
        processes.close(code)
        if not inherited:
            os.environ.pop(INHERITED, None)  # a second run in this process is a run of its own
        gc.freeze()  # the interpreter's last collection would walk torch and Lightning for a second
    return code


def _run(request: Request, processes: RunProcesses) -> int:
    checkpoint_path, folder = agreed(request, processes)
    stored = read_outline(checkpoint_path) if checkpoint_path else None
    words, temporary = _words(request, stored)
    try:
        cli = _parse(request, words)
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)
    if request.wants_help:
        return 0
    config = cli.plain_config()
    fresh = folder is None and INHERITED not in os.environ
    folder = folder or choose(request, processes, config, checkpoint_path)
    try:
        code = _train_or_test(request, cli, folder.path, config, checkpoint_path, stored, processes)
        finished(folder.path, processes)
        return code
    except Exception as error:
        mistake = isinstance(error, UserError) or processes.mistaken()
        if mistake and processes.first and fresh and _is_bare(folder.path):
            shutil.rmtree(folder.path, ignore_errors=True)  # nothing came of it, and `last` must not find it
        raise


def _is_bare(folder: Path) -> bool:
    return not any(folder.rglob("*.ckpt")) and not (folder / "metrics.csv").exists()


def _train_or_test(
    request: Request,
    cli: DomainCLI,
    folder: Path,
    config: dict[str, Any],
    checkpoint_path: Path | None,
    stored: dict[str, Any] | None,
    processes: RunProcesses,
) -> int:
    task = cli.model
    if request.verb == "fit" and stored is not None:
        _compare(stored, config, task, aloud=processes.first)
    if request.verb != "fit" and stored is not None:
        kind = task.facts_type
        held = stored["state_dict"].get(STATE)
        known = held if kind is None else stored_facts(stored["state_dict"], kind, where=str(checkpoint_path))
        adopt = getattr(cli.datamodule, "use_statistics", None)
        if known and adopt is not None:
            adopt(known)
    task.record = describe(request.domain, request.recipe_name, config, task, stored)
    trainer = _user_errors(
        build_trainer,
        cli.config_init["trainer"],
        task=task,
        folder=folder,
        tracking=cli.config_init["tracking"],
        checkpoints=cli.config_init["checkpoints"],
        devices=Devices(**{name: cli.config_init[name] for name in ("cpu", "cuda", "neuron")}),
        profile=cli.config_init["profile"],
        config=config,
        verb=request.verb,
        rows=task.product_rows(cli.datamodule),
        launch=cli.config_init["launch"],
        processes=processes,
    )
    if trainer.is_global_zero:
        print(f"run folder: {folder}", flush=True)
    resume = str(checkpoint_path) if checkpoint_path and stored is not None else None
    return _start(trainer, cli, request, resume)


def _start(trainer: pl.Trainer, cli: DomainCLI, request: Request, resume: str | None) -> int:
    from core.tracking import finish

    code = 0
    try:
        quietly = {"verbose": False} if request.verb in ("validate", "test") else {}
        getattr(trainer, request.verb)(cli.model, datamodule=cli.datamodule, ckpt_path=resume, **quietly)
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if (
            request.verb == "fit"
            and _value(str(cli.config_init["about"].get("test_after_fit")))  # a word on the command line
            and not trainer.interrupted
            and _has_test_data(cli.datamodule)
        ):
            trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path=best or None, verbose=False)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
        raise
    except ModuleNotFoundError as error:
        raise missing_extra(error.name) or error from error
    except OSError as error:
        raise _disk_full(error) or error from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory_advice(error, trainer, folder=cli.model.run_folder) from error
    finally:
        finish(trainer.loggers, failed=code != 0)
    return 0


def _has_test_data(data: Any) -> bool:
    """Tell whether there is something to test after training; data without a test part are no mistake."""
    found = getattr(data, "test_set", None)
    if found is None or found() is not None:
        return True
    print("the data has no test part, so nothing is tested after training", flush=True)
    return False


def _disk_full(error: OSError) -> UserError | None:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"the disk is full ({error.filename or 'while writing'}); free some space and run it again with"
            " --ckpt_path last"
        )
    return None


def _words(request: Request, stored: dict[str, Any] | None) -> tuple[list[str], Path | None]:
    """Return the parser's words: files first, then the options, so that the command line's own values always
    win.
    """
    files = [str(path) for path in request.configs]
    temporary = None
    config: dict[str, Any] | None = None
    if request.configs:
        config = read_yaml(request.configs[0])
        base = inherited(request, stored)
        if base:
            config = merged(base, config)
            temporary = _temporary(config)
            files[0] = str(temporary)
    elif stored is not None:
        config = (stored.get("domainfm") or {}).get("config")
        if not config:
            raise UserError(f"{request.ckpt_path} holds no config, so it needs a recipe beside it (--config)")
        temporary = _temporary(merged(config, {"model": {"init_args": {"weights": None}}}))
        files = [str(temporary)]
    words = [word for path in files for word in ("--config", path)]
    words += _other_data(request, config or {})
    if request.wants_help:
        words.append("--help")
    return words, temporary


def _temporary(config: dict[str, Any]) -> Path:
    handle, name = tempfile.mkstemp(suffix=".yaml", prefix="dfm-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        yaml.safe_dump(config, file, sort_keys=False)
    return Path(name)


def _other_data(request: Request, config: dict[str, Any]) -> list[str]:
    """Return the options; a data file given by hand replaces the recipe's data, and all that is said of
    those.
    """
    names = {word.partition("=")[0] for word in request.options}
    if "--data.path" not in names:
        return request.options
    about_data = getattr(import_module(f"apps.{request.domain}"), "about_data", lambda config: ("card",))
    about = about_data(with_network_options(config, request.options))
    return [*(f"--data.{name}=null" for name in about if f"--data.{name}" not in names), *request.options]


def _parse(request: Request, words: list[str]) -> DomainCLI:
    set_loader("yaml", _value, (yaml.YAMLError,))
    try:
        cli = DomainCLI(request, words)
    except argparse.ArgumentError as error:
        destinations = _destinations()
        mistake = explain(error, destinations)
        if mistake is None:
            raise
        raise mistake from error
    except ValueError as error:
        mistake = _user_error_within(error)
        if mistake is None:
            raise
        raise mistake from error
    if cli.config["trainer"].get("accumulate_grad_batches", 1) == 0:
        raise UserError("trainer.accumulate_grad_batches is 0; it must be at least 1")
    return cli


def _value(text: str) -> Any:
    """Return what an option's words mean.

    jsonargparse hands `null` on to a class within a class as Python's `None`, which YAML takes for a name.
    """
    return None if text == "None" else _YAML(text)


def _user_error_within(error: BaseException) -> UserError | None:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, UserError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _destinations() -> list[str]:
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(pl.Trainer, "trainer")
    return [action.dest for action in parser._actions if action.dest]


def _user_errors(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call what builds the Trainer: whatever it refuses there, the user asked for."""
    try:
        return function(*args, **kwargs)
    except (TypeError, ValueError, ModuleNotFoundError, MisconfigurationException) as error:
        text = " ".join(str(error).split())
        absent = re.search(r"`(\w+)Accelerator` can not run on your system", text)
        if absent:
            text = (
                f"this machine has no {absent[1]} device that torch can use (`dfm doctor` shows what there"
                " is); give --trainer.accelerator=cpu"
            )
        where = "trainer.accelerator" if isinstance(error, ModuleNotFoundError) else "trainer"
        asked = f" {args[0].get('accelerator')}" if where != "trainer" else ""
        raise UserError(f"{where}{asked}: {text}") from error


def _compare(stored: dict[str, Any], config: dict[str, Any], task: Task, *, aloud: bool = True) -> None:
    """Print each changed value of model and data; refuse a network of another size."""
    before = (stored.get("domainfm") or {}).get("config") or {}
    changed = [
        (name, old, new)
        for part in ("model", "data")
        for name, old, new in _differences(before.get(part), config.get(part), part)
        if not name.endswith(".weights")
    ]
    shapes = {name: tuple(value.shape) for name, value in task.network.state_dict().items()}
    adapted = [entry for entry in changed if entry[0].startswith("model.adaptation")]
    adds = task.adaptation is not None and task.adaptation.adds
    if adapted and (adds or any(map(is_adapter, stored["state_dict"]))):
        name, old, new = adapted[0]
        raise UserError(
            f"{name} is {old} in the checkpoint and {new} here, and adapters cannot change in a run; take "
            "the change back, or start a new run from it with --model.weights"
        )
    for name, value in stored["state_dict"].items():
        short = name.removeprefix("network.")
        if is_adapter(name):
            continue  # comes with the adaptation, once the network is in place
        if name.startswith("network.") and shapes.get(short) != tuple(value.shape):
            names = (
                ", ".join(f"{n} {o} -> {w}" for n, o, w in changed if ".network" in n) or "another network"
            )
            raise UserError(
                f"the checkpoint's network has other sizes than the recipe's ({names}): {short} is "
                f"{tuple(value.shape)} there and {shapes.get(short, 'absent')} here; "
                "start a new run, or take the change back"
            )
    if not aloud:
        return
    for name, old, new in changed:
        print(f"changed since the checkpoint: {name}: {old} -> {new}", flush=True)
    if any(".optimizer" in name for name, _, _ in changed):
        print("note: the optimiser's state, its rate and decay included, is the checkpoint's", flush=True)


def _differences(old: Any, new: Any, name: str) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in dict.fromkeys([*old, *new]):
            label = name if key == "init_args" else f"{name}.{key}"
            found += _differences(old.get(key), new.get(key), label)
        return found
    return [] if old == new else [(name, old, new)]
