"""The Python API of domainfm; `python -m domainfm` is `dfm`.

`run = fit("timeseries", "ttm/demo")` trains, `load(run.best).forecast("my.csv", horizon=96)` predicts.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apps.music.predict.model import Writer
    from apps.pde.predict.model import Surrogate
    from apps.remote_sensing.predict.model import SceneModel
    from apps.timeseries.predict.model import Forecaster
    from apps.weather.predict.model import WeatherForecaster

__all__ = [
    "Forecaster",
    "Run",
    "SceneModel",
    "Surrogate",
    "UserError",
    "WeatherForecaster",
    "Writer",
    "fit",
    "load",
    "main",
]

_HOME = str(Path(__file__).resolve().parent)
_PREDICTORS = {
    "Forecaster": "timeseries",
    "SceneModel": "remote_sensing",
    "Surrogate": "pde",
    "WeatherForecaster": "weather",
    "Writer": "music",
}


def _claim_packages() -> None:
    """Make `core` and `apps` mean this suite's, whatever folders of those names the current folder has.

    Raises:
        ImportError: If others of those names were imported before.
    """
    if sys.path[:1] != [_HOME]:
        sys.path.insert(0, _HOME)
    for name in ("core", "apps"):
        loaded = sys.modules.get(name)
        home = Path(next(iter(getattr(loaded, "__path__", [])), _HOME)).resolve().parent
        if loaded is not None and str(home) != _HOME:
            raise ImportError(
                f"another package named '{name}' was imported before ({home / name}); import domainfm "
                "first, or rename that folder"
            )


_claim_packages()

from core.errors import UserError  # noqa: E402


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        folder: Its run folder: config, checkpoints, `metrics.csv`, figures and `report.html`.
        best: The best checkpoint by the task's `monitor`, else the newest one.
    """

    folder: Path
    best: Path


def fit(
    domain: str, recipe: str, options: Mapping[str, Any] | None = None, *, hardware: Sequence[str] = ()
) -> Run:
    """Train a recipe in this process, as `dfm DOMAIN fit --config RECIPE` does.

    Args:
        domain: `timeseries`, `pde`, `remote_sensing`, `music` …
        recipe: Its name (`ttm/demo`) or a YAML file.
        options: Dotted names to values that win over the recipe's, as in `{"trainer.max_epochs": 1}`.
        hardware: Further config files, such as `trainer/cuda`.

    Raises:
        UserError: For a mistake in recipe, options or data.
        KeyboardInterrupt: If the run was interrupted; its checkpoint resumes it.
    """
    import yaml

    from core.cli.arguments import prepare
    from core.cli.environment import set_environment

    words = [word for config in (recipe, *hardware) for word in ("--config", config)]
    for name, value in (options or {}).items():
        text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
        words.append(f"--{name}={value if isinstance(value, str | Path) else text}")
    request = prepare(domain.replace("-", "_"), "fit", words)
    set_environment(request)
    from core.cli.run import run
    from core.cli.run_folders import best_in, runs_of

    root = str((options or {}).get("runs", "runs"))
    name = str(request.recipe_name)
    before = set(runs_of(request.domain, name, root))
    code = run(request)
    if code == 130:
        raise KeyboardInterrupt
    folders = [folder for folder in runs_of(request.domain, name, root) if folder not in before]
    best = best_in(folders[0]) if folders else None
    if code != 0 or best is None:
        raise UserError(f"{domain} {recipe} ended with exit code {code} and left no checkpoint")
    return Run(folders[0], best)


def load(path: str | Path, *, device: str = "auto", domain: str | None = None, **settings: Any) -> Any:
    """Return the predictor of a checkpoint, such as a `Forecaster` or a `Surrogate`.

    Args:
        path: Our checkpoint, or a folder in the hub's layout, a weights card's name or a hub id.
        device: `auto`, `cpu`, `cuda`, `mps` or `neuron`.
        domain: Where the weights do not say it.
        **settings: Further arguments of the predictor, such as `batch_size`.

    Raises:
        UserError: If it does not exist, is damaged, or its domain is not known.
    """
    from core.accelerators.choice import usable

    kind = _predictor(domain.replace("-", "_") if domain else _domain_of(str(path)))
    return kind.from_checkpoint(str(path), device=usable(device), **settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `dfm` with these words, else the process's arguments, and return its exit code."""
    from core.cli import main as dispatch

    return dispatch(argv)


def _domain_of(path: str) -> str:
    """Return the domain that a checkpoint's task or a weights card belongs to."""
    from core.checkpoints.cards import card_names, load_weights_card
    from core.checkpoints.files import read_outline

    if path in card_names():
        return load_weights_card(path).domain
    if path.endswith(".ckpt"):
        if not Path(path).exists():
            raise UserError(f"checkpoint {path} does not exist; `dfm checkpoint list` shows what there is")
        config = (read_outline(path).get("domainfm") or {}).get("config") or {}
        task = str((config.get("model") or {}).get("class_path", ""))
        if task.startswith("apps."):
            return task.split(".")[1]
    raise UserError(f"{path} does not say which domain it belongs to; give domain=, as in 'timeseries'")


def _predictor(domain: str) -> Any:
    """Return the predictor class that a domain's head names."""
    from importlib import import_module

    from core.cli.recipes import domains
    from core.errors import did_you_mean

    if domain not in domains():
        raise UserError(f"'{domain}' is no domain ({', '.join(domains())}){did_you_mean(domain, domains())}")
    module, _, name = import_module(f"apps.{domain}").PREDICTOR.partition(":")
    return getattr(import_module(module), name)


def __getattr__(name: str) -> Any:
    if name in _PREDICTORS:
        return _predictor(_PREDICTORS[name])
    raise AttributeError(f"module 'domainfm' has no attribute {name!r}")


if __name__ == "__main__":
    sys.exit(main())
