"""The loggers of a run, built from what the recipe says, figures handed to all, and the report at the end."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.loggers.tensorboard import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from core.errors import UserError
from core.figures.movies import save_movie
from core.figures.style import save_figure
from core.tracking.metrics_csv import MetricsCSV
from core.tracking.settings import Tracking
from core.tracking.wandb_logger import WandbLogger, wandb_mode

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["RunRecord", "build_loggers", "finish", "log_figure", "log_movie"]


def build_loggers(
    tracking: Tracking,
    folder: str | os.PathLike[str],
    *,
    name: str,
    config: Mapping[str, Any] | None = None,
) -> list[Logger]:
    """Return the loggers of a run: `MetricsCSV` first, always; then Weights & Biases and TensorBoard.

    Nothing is written and no run begun before the first metric.

    Args:
        tracking: What was asked for.
        folder: The run folder.
        name: Name of the run, such as `ttm-demo`.
        config: The resolved config in plain containers; secrets in it are not logged.

    Raises:
        UserError: If Weights & Biases is to be online and no key is known, or TensorBoard is not installed.
    """
    loggers: list[Logger] = [MetricsCSV(folder, name=name)]
    if mode := wandb_mode(tracking.wandb):
        project = tracking.project or "domainfm"
        loggers.append(WandbLogger(folder, name=name, project=project, mode=mode, config=config))
    if tracking.tensorboard:
        if importlib.util.find_spec("tensorboard") is None:
            raise UserError(
                "tracking.tensorboard is true but TensorBoard is not installed; "
                "run pip install 'domainfm[tensorboard]'"
            )
        # An empty name and a version of ours: Lightning would make lightning_logs/version_0 otherwise.
        board = TensorBoardLogger(Path(folder), name="", version="tensorboard", default_hp_metric=False)
        loggers.append(board)
    return loggers


@rank_zero_only
def log_figure(
    where: Trainer | Iterable[Logger], folder: str | os.PathLike[str], name: str, figure: Figure, step: int
) -> Path | None:
    """Save a figure in the run folder and mirror that file to the loggers; on ranks above 0 do nothing."""
    path = save_figure(figure, folder, name, step)
    for logger in where.loggers if isinstance(where, Trainer) else where:
        if isinstance(logger, WandbLogger):
            logger.log_picture(name, path, step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, _pixels(path), step, dataformats="HWC")
    return path


@rank_zero_only
def log_movie(
    where: Trainer | Iterable[Logger],
    folder: str | os.PathLike[str],
    name: str,
    frames: Sequence[NDArray[np.uint8]],
    step: int,
    *,
    rate: float = 6.0,
) -> Path | None:
    """Save a movie in the run folder and mirror that one file to W&B; on ranks above 0 do nothing.

    Frames are pictures `(H, W, 3)` of uint8, all of one size, `rate` of them a second. TensorBoard, which
    needs another package for movies, is given the last.
    """
    path = save_movie(frames, folder, name, step, rate=rate)
    for logger in where.loggers if isinstance(where, Trainer) else where:
        if isinstance(logger, WandbLogger):
            logger.log_picture(name, path, step=step, movie=True)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, frames[-1], step, dataformats="HWC")
    return path


def finish(loggers: Iterable[Logger], *, failed: bool = False) -> None:
    """Close what the loggers hold open; call it on every path out of the process."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.finish(failed=failed)
        elif isinstance(logger, TensorBoardLogger):
            logger.finalize("failed" if failed else "success")


class RunRecord(Callback):
    """Rewinds `metrics.csv` to the step a resumed run goes on from, and ends fit and test with the report."""

    def __init__(self, folder: str | os.PathLike[str], tracking: Tracking) -> None:
        super().__init__()
        self.folder, self.tracking = Path(folder), tracking
        self.samples: dict[str, int] = {}  # of the stages so far: a test forgets the training's loader

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the rows that the restored state has not reached; a run that begins at 0 keeps every row."""
        if trainer.global_step and trainer.is_global_zero:
            for logger in trainer.loggers:
                if isinstance(logger, MetricsCSV):
                    logger.rewind(trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand the best checkpoint over, or else the last, if asked."""
        keepers = [keeper for keeper in trainer.checkpoint_callbacks if isinstance(keeper, ModelCheckpoint)]
        paths = [getattr(keeper, f"{kind}_model_path") for kind in ("best", "last") for keeper in keepers]
        best = next((path for path in paths if path and Path(path).is_file()), None)
        if self.tracking.artifact and best is not None:
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_checkpoint(best)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the report: the last hook of a stage, so that tables and figures of the task are there."""
        if self.tracking.report and stage in ("fit", "validate", "test") and trainer.is_global_zero:
            from core.tracking.report import write_report

            if self.folder.is_dir():
                self.samples |= _samples(trainer)
                write_report(self.folder, cards=_cards(pl_module, self.samples))


def _samples(trainer: Trainer) -> dict[str, int]:
    counts: dict[str, int] = {}
    loaders = {"training": "train_dataloader", "validation": "val_dataloaders", "test": "test_dataloaders"}
    for name, attribute in loaders.items():
        dataset = getattr(getattr(trainer, attribute, None), "dataset", None)
        with suppress(TypeError):  # a stream has no length
            counts |= {} if dataset is None else {f"{name} samples": len(dataset)}
    return counts


def _cards(module: LightningModule, samples: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Return what a report says of data and network: classes and settings, samples, parameters, licences."""
    record = getattr(module, "record", {})
    config = record.get("config") or {}
    model = (config.get("model") or {}).get("init_args") or {}
    data, network = _settings(config.get("data")), _settings(model.get("network"))
    data |= samples
    if record.get("licences"):
        data["licences"] = record["licences"]
    parameters = list(getattr(module, "network", module).parameters())
    network["parameters"] = sum(each.numel() for each in parameters)
    network["trained"] = sum(each.numel() for each in parameters if each.requires_grad)
    network |= {name: model[name] for name in ("weights", "adaptation") if model.get(name)}
    cards = {"data": data, "network": network}
    return {title: {name: _text(value) for name, value in card.items()} for title, card in cards.items()}


def _settings(part: Any) -> dict[str, Any]:
    """Return the class and the arguments of a part of a config that are set."""
    part = part if isinstance(part, Mapping) else {}
    values = {
        name: value for name, value in (part.get("init_args") or {}).items() if value not in (None, [], {})
    }
    return {"class": part["class_path"], **values} if "class_path" in part else values


def _text(value: Any) -> str:
    """Return a setting in a line, of a class its arguments."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}".replace(",", " ")
    if isinstance(value, Mapping):
        inner = _settings(value) if "class_path" in value else value
        pairs = (f"{name} {_text(item)}" for name, item in inner.items() if item is not None)
        return ", ".join(pair.removeprefix("class ").removeprefix("init_args ") for pair in pairs)
    text = ", ".join(map(_text, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 300 else f"{text[:299]}…"


def _pixels(path: Path) -> Any:
    """Return a PNG as an array `(H, W, 3)` of uint8."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
