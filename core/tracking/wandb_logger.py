"""Weights & Biases in the run folder: offline where no key or network is there, and quiet."""

from __future__ import annotations

import os
import secrets
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from core.environment import variables_kept
from core.errors import UserError
from core.files import replacing
from core.tracking.metrics_csv import FolderLogger
from core.tracking.settings import has_wandb_key, wandb_server, without_secrets

__all__ = ["WandbLogger", "wandb_mode"]

ID_FILE = "wandb-id.txt"
STEP = "trainer/global_step"
_FOLDERS = {"WANDB_DATA_DIR": "data", "WANDB_CACHE_DIR": "cache", "WANDB_CONFIG_DIR": "config"}


class WandbLogger(FolderLogger):
    """Mirrors metrics, config, figures and checkpoints to a Weights & Biases run.

    The run begins with the first thing logged. Its id is kept in `<folder>/wandb-id.txt`, so that a resumed
    run goes on under it. Nothing is captured that was not asked for: no console output, no git state, no
    machine statistics, no list of packages; texts under keys such as `api_key` or `token` are replaced by
    `***`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        name: str,
        project: str,
        mode: Literal["online", "offline"],
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(Path(folder).absolute(), name=project)  # as Lightning's own logger has it
        self._title, self.mode, self._config = name, mode, dict(config or {})
        self._run: Any = None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `wandb.Run`, begun on first use."""
        if self._run is None:
            self._run = self._begin()
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace | None = None, *_: Any, **__: Any) -> None:
        """Add values to the run's config, without secrets."""
        values = vars(params) if isinstance(params, Namespace) else dict(params or {})
        if values:
            self.experiment.config.update(without_secrets(values), allow_val_change=True)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log one set of metrics under Lightning's step."""
        values = dict(metrics)
        self.experiment.log(values if step is None else {**values, STEP: int(step)})

    @rank_zero_only
    def log_picture(self, name: str, path: Path, *, step: int, movie: bool = False) -> None:
        """Log a picture, or a movie (a GIF or an MP4), from its file."""
        import wandb

        with _environment(self._folder):
            picture = wandb.Video(str(path)) if movie else wandb.Image(str(path))
            self.experiment.log({name: picture, STEP: int(step)})

    @rank_zero_only
    def log_checkpoint(self, path: str | os.PathLike[str], *, aliases: tuple[str, ...] = ("best",)) -> None:
        """Hand a checkpoint over as an artifact of type `model`; offline it is staged in the run folder."""
        import wandb

        with _environment(self._folder):
            run = self.experiment
            artifact = wandb.Artifact(f"checkpoint-{run.id}", type="model")
            artifact.add_file(str(path), name=Path(path).name)
            run.log_artifact(artifact, aliases=list(aliases))

    @rank_zero_only
    def finish(self, *, failed: bool = False) -> None:
        """Close the run's file; what is logged later goes on under the same id."""
        if self._run is not None:
            run, self._run = self._run, None
            file = Path(run.settings.sync_file)
            before = _size(file)
            with _environment(self._folder):
                run.finish(exit_code=1 if failed else 0)
            if self.mode == "offline":
                _wait_until_written(file, before)
                print(f"Weights & Biases, offline; send it with: wandb sync {file.parent}", flush=True)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the run if it failed; after a success the next stage (fit, then test) goes on in it."""
        if status != "success":
            self.finish(failed=True)

    def _begin(self) -> Any:
        import wandb

        self._folder.mkdir(parents=True, exist_ok=True)
        identity = _run_id(self._folder)
        with _environment(self._folder):
            settings = wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            )
            options: dict[str, Any] = {
                "project": self._name,
                "name": self._title[-128:],  # more the server refuses; its end tells runs apart
                "dir": str(self._folder),
                "id": identity,
                # Offline, a second run of the same id is written beside the first; they merge when synced.
                "resume": "allow" if self.mode == "online" else None,
                "config": without_secrets(self._config),
                "settings": settings,
            }
            try:
                run = wandb.init(mode=self.mode, **options)
            except wandb.errors.UsageError as problem:
                raise UserError(
                    f"Weights & Biases refused the run ({str(problem).splitlines()[0]}); "
                    "log in with 'wandb login' or set tracking.wandb to offline"
                ) from problem
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        return run


def wandb_mode(wish: str) -> Literal["online", "offline"] | None:
    """Return how a run is logged: `online`, `offline`, or None for not at all.

    `auto` follows `WANDB_MODE` where it is set, else it is online only if a key is known and the server
    answers.

    Raises:
        UserError: If `online` is wished and no key is known, or the server does not answer.
    """
    if wish == "auto":
        variable = os.environ.get("WANDB_MODE", "").lower()
        wish = {"online": "online", "offline": "offline", "disabled": "off"}.get(variable, "auto")
    if wish == "off":
        return None
    if wish == "online" and not has_wandb_key():
        raise UserError(
            "tracking.wandb is online but no key for Weights & Biases was found; "
            "run 'wandb login', set WANDB_API_KEY, or set tracking.wandb to offline"
        )
    answers = wish != "offline" and has_wandb_key() and _server_answers()
    if wish == "online" and not answers:
        raise UserError(
            f"tracking.wandb is online but {wandb_server()} does not answer; set tracking.wandb to offline "
            "and send the run later with 'wandb sync' and the folder wandb/offline-run-* in its run folder"
        )
    return "online" if answers else "offline"


def _server_answers() -> bool:
    """Ask once, through the user's proxies, for at most three seconds."""
    import requests

    try:
        requests.head(wandb_server(), timeout=3)
    except requests.RequestException:
        return False
    return True


def _wait_until_written(file: Path, before: int, *, patience: float = 2.0) -> None:
    """Wait until wandb's helper process has written the end of its file, `patience` seconds at most.

    `finish` returns before the helper closes the file (seen with wandb 0.31: 7 bytes at the return, all of it
    within 50 ms), so that a process which ends at once, or reads the file, could miss the last records.
    """
    end, size = time.monotonic() + patience, before
    while time.monotonic() < end:
        now = _size(file)
        if now > before and now == size:  # grown by the last records, and no longer growing
            return
        size = now
        time.sleep(0.01)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _run_id(folder: Path) -> str:
    """Return the id kept in the run folder, made on first use."""
    file = folder / ID_FILE
    if file.exists() and (identity := file.read_text(encoding="utf-8").strip()):
        return identity
    identity = secrets.token_hex(4)
    with replacing(file) as temporary:
        temporary.write_text(identity + "\n", encoding="utf-8")
    return identity


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Keep wandb's own files in the run folder while it works: they go to the user's home otherwise.

    An empty WANDB_MODE, which wandb refuses, is taken away; what the user set himself stays.
    """
    with variables_kept([*_FOLDERS, "WANDB_MODE"]):
        for name, below in _FOLDERS.items():
            os.environ.setdefault(name, str(folder / "wandb" / below))
        if os.environ.get("WANDB_MODE") == "":
            del os.environ["WANDB_MODE"]
        yield
