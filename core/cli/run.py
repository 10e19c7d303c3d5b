"""Runs `dfm <domain> fit|validate|test|predict`: folder, checkpoint, objects, then the Trainer's method."""

from __future__ import annotations

import errno
import gc
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from core.accelerators.memory import is_out_of_memory, out_of_memory_advice
from core.backbones.adapters import is_adapter
from core.checkpoints.files import read_outline, read_unverified
from core.cli.arguments import Request, merged, read_yaml
from core.cli.error_messages import missing_extra
from core.cli.inheritance import inherited, with_network_options
from core.cli.lightning_cli import DomainCLI, parse, yaml_value
from core.cli.run_folders import (
    INHERITED,
    best_in,
    checkpoint_and_folder,
    lock_folder,
    new_folder,
    note_end,
    release_folder,
    rendezvous_timeout,
)
from core.data.normaliser import stored_facts
from core.environment import variables_kept
from core.errors import UserError
from core.strategies.launch import RANK_VARIABLES, rank_info
from core.strategies.processes import RunProcesses
from core.task import Task
from core.tracking.loggers import finish
from core.tracking.progress import quiet
from core.trainer import Devices, build_trainer, describe

__all__ = ["run"]

_OF_TRAINING = ("optimizer", "schedule", "lr_finder")  # of a task
_OF_RUNS = ("callbacks", "logger", "plugins", "profiler")  # of the Trainer


def run(request: Request) -> int:
    """Run one request and return its exit code; see `core.cli.main` for the codes.

    Raises:
        UserError: For a mistake in options, recipe, data or checkpoint.
    """
    quiet()
    inherited = INHERITED in os.environ
    processes = RunProcesses(rank_info(), timeout=rendezvous_timeout(request))
    code = 1
    try:
        processes.gather()
        with variables_kept(RANK_VARIABLES):
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
    checkpoint, folder = checkpoint_and_folder(request, processes)
    stored = read_outline(checkpoint) if checkpoint else None
    words, temporary = _words(request, stored)
    try:
        cli = parse(request, words)
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)
    config = cli.plain_config()
    fresh = folder is None and INHERITED not in os.environ
    folder = folder or new_folder(request, processes, config, checkpoint)
    if request.verb == "fit" and processes.first:
        lock_folder(folder)
    try:
        code = _train_or_test(request, cli, folder, config, checkpoint, stored, processes)
        note_end(folder, processes)
        return code
    except Exception as error:
        mistake = isinstance(error, UserError) or processes.mistaken()
        if mistake and processes.first and fresh and _is_bare(folder):
            shutil.rmtree(folder, ignore_errors=True)  # nothing came of it, and `last` must not find it
        raise
    finally:
        release_folder(folder)


def _is_bare(folder: Path) -> bool:
    return not any(folder.rglob("*.ckpt")) and not (folder / "metrics.csv").exists()


def _train_or_test(
    request: Request,
    cli: DomainCLI,
    folder: Path,
    config: dict[str, Any],
    checkpoint: Path | None,
    stored: dict[str, Any] | None,
    processes: RunProcesses,
) -> int:
    task = cli.model
    if request.verb == "fit" and stored is not None:
        _compare(stored, config, task, aloud=processes.first)
    if request.verb != "fit" and stored is not None:
        facts = stored_facts(stored["state_dict"], task.facts_type, where=str(checkpoint))
        use_statistics = getattr(cli.datamodule, "use_statistics", None)
        if facts and use_statistics is not None:
            use_statistics(facts)
    begin_from = getattr(cli.datamodule, "begin_from", None)
    if request.verb == "fit" and begin_from is not None and (facts := _learnt_with(task, stored)):
        begin_from(facts)
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
    return _start(trainer, cli, request, str(checkpoint) if checkpoint else None)


def _start(trainer: pl.Trainer, cli: DomainCLI, request: Request, resume: str | None) -> int:
    code = 0
    try:
        quietly = {"verbose": False} if request.verb in ("validate", "test") else {}
        getattr(trainer, request.verb)(cli.model, datamodule=cli.datamodule, ckpt_path=resume, **quietly)
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if (
            request.verb == "fit"
            and yaml_value(str(cli.config_init["about"].get("test_after_fit")))  # a word on the command line
            and not trainer.interrupted
            and _has_test_data(cli.datamodule)
        ):
            trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path=best or None, verbose=False)
        if trainer.is_global_zero and not trainer.interrupted:
            _say_end(trainer, request, Path(str(cli.model.run_folder)))
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
        raise
    except ModuleNotFoundError as error:
        raise missing_extra(error.name) or error from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"the disk is full ({error.filename or 'while writing'}); free some space and run it again with"
            " --ckpt_path last"
        ) from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory_advice(error, trainer, folder=cli.model.run_folder) from error
    finally:
        finish(trainer.loggers, failed=code != 0)
    return 0


def _say_end(trainer: pl.Trainer, request: Request, folder: Path) -> None:
    """Say where the results are, and what may be typed next."""
    if (folder / "report.html").is_file():
        print(f"report: {folder / 'report.html'}", flush=True)
    if request.verb != "fit" or (best := best_in(folder)) is None:
        return
    keeper: Any = trainer.checkpoint_callback
    score = getattr(keeper, "best_model_score", None)
    note = "" if score is None else f" ({keeper.monitor} {float(score):.4g})"
    print(f"{'best' if note else 'last'} checkpoint: {best}{note}", flush=True)
    spoken = request.domain.replace("_", "-")
    options = getattr(import_module(f"apps.{request.domain}"), "PREDICT_EXAMPLE", "--data.path FILE")
    print(f"next: dfm {spoken} predict --ckpt_path {best} {options}", flush=True)


def _has_test_data(data: Any) -> bool:
    """Tell whether there is something to test after training; data without a test part are no mistake."""
    test_set = getattr(data, "test_set", None)
    if test_set is None or test_set() is not None:
        return True
    print("the data has no test part, so nothing is tested after training", flush=True)
    return False


def _words(request: Request, stored: dict[str, Any] | None) -> tuple[list[str], Path | None]:
    """Return the parser's words: files first, then the options, so that the command line's values win."""
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
        config = merged(config, {"model": {"init_args": {"weights": None}}})
        for name in getattr(import_module(f"apps.{request.domain}"), "FORMER", ()):
            if _value(config, ["data", "init_args", name]) is None:
                config.get("data", {}).get("init_args", {}).pop(name, None)
        temporary = _temporary(config if request.verb == "fit" else _without_training(config))
        files = [str(temporary)]
    words = [word for path in files for word in ("--config", path)]
    words += _other_data(request, config or {})
    return words, temporary


def _without_training(config: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's config as evaluation needs it: without optimiser, loggers and callbacks."""
    model, trainer = config.get("model") or {}, config.get("trainer") or {}
    arguments = model.get("init_args") or {}
    kept = {key: value for key, value in arguments.items() if key not in _OF_TRAINING}
    return {
        **config,
        "model": {**model, "init_args": kept},
        "trainer": {key: value for key, value in trainer.items() if key not in _OF_RUNS},
    }


def _temporary(config: dict[str, Any]) -> Path:
    handle, name = tempfile.mkstemp(suffix=".yaml", prefix="dfm-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        yaml.safe_dump(config, file, sort_keys=False)
    return Path(name)


def _other_data(request: Request, config: dict[str, Any]) -> list[str]:
    """Return the options; a data file given by hand replaces the recipe's data, and all that it says."""
    names = {word.partition("=")[0] for word in request.options}
    if "--data.path" not in names:
        return request.options
    about_data = getattr(import_module(f"apps.{request.domain}"), "about_data", lambda config: ("card",))
    about = about_data(with_network_options(config, request.options))
    void = [name for name in about if f"--data.{name}" not in names]
    values = {name: _value((config.get("data") or {}).get("init_args"), name.split(".")) for name in void}
    told = [
        f"{name} {value}" for name, value in values.items() if isinstance(value, int | float | str | list)
    ]
    if told:
        print(
            f"data: --data.path instead of the {'recipe' if request.configs else 'checkpoint'}'s data: its "
            f"{', '.join(told)} no longer hold; give them as options to keep them",
            file=sys.stderr,
        )
    return [*(f"--data.{name}=null" for name in void), *request.options]


def _value(config: Any, keys: Sequence[str]) -> Any:
    """Return what stands in nested mappings under these keys, or None."""
    for key in keys:
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _user_errors(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call what builds the Trainer: whatever it refuses there, the user asked for."""
    if args[0].get("val_check_interval") == 0:
        raise UserError("trainer.val_check_interval is 0; give steps, at least 1, or a share of an epoch")
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


def _learnt_with(task: Task, stored: dict[str, Any] | None) -> Any:
    """Return the facts of the checkpoint that a training goes on from or takes its weights from, if it is one
    of ours.
    """
    if stored is None:
        path = Path(str(task.weights))
        if path.suffix != ".ckpt" or not path.exists():
            return None
        try:
            stored = read_unverified(path, mmap=True)  # it is verified when its weights are loaded
        except UserError:
            return None
    return stored_facts(stored.get("state_dict") or {}, task.facts_type, where="the checkpoint")


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
            names = ", ".join(f"{n} {o} -> {w}" for n, o, w in changed if ".network" in n)
            names = names or "another network"
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
        changes = []
        for key in dict.fromkeys([*old, *new]):
            label = name if key == "init_args" else f"{name}.{key}"
            changes += _differences(old.get(key), new.get(key), label)
        return changes
    return [] if old == new else [(name, old, new)]
