"""Settings of a run's tracking, the account that it may use, and the removal of secrets; without wandb."""

from __future__ import annotations

import netrc
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

from core.errors import UserError, did_you_mean

__all__ = ["Tracking", "has_wandb_key", "wandb_server", "without_secrets"]

MODES = ("auto", "online", "offline", "off")

_SECRET_KEY = re.compile(r"(^|[_\-.])(api_?key|token|password|passwd|secret|credentials?)$", re.IGNORECASE)
_USER_IN_URL = re.compile(r"(?<=://)[^/\s@]+@")
_KEY_IN_URL = re.compile(
    r"(?<=[?&])((?:[\w-]*[_-])?(?:key|token|password|secret|signature|sig))=[^&\s]+", re.I
)


@dataclass(frozen=True)
class Tracking:
    """Places that a run is logged to, beside `metrics.csv` in its folder.

    Attributes:
        wandb: `auto` (online where key and network are there, else offline), `online`, `offline`, `off`.
        project: Weights & Biases project; null means domainfm.
        tensorboard: Write TensorBoard files into `<run>/tensorboard` (needs `domainfm[tensorboard]`).
        artifact: Hand the best checkpoint to Weights & Biases when training ends.
        report: Write `<run>/report.html` when training or testing ends.
        peak_tflops: Dense peak of one device in TFLOP/s, against which MFU is measured; null takes that of
            the table in `core.tracking.peaks`.

    Raises:
        UserError: If `wandb` is none of the four words, or the peak is not above 0.
    """

    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    project: str | None = None
    tensorboard: bool = False
    artifact: bool = False
    report: bool = True
    peak_tflops: float | None = None

    @property
    def peak(self) -> float | None:
        """The peak in FLOP per second."""
        return None if self.peak_tflops is None else self.peak_tflops * 1e12

    def __post_init__(self) -> None:
        if self.peak_tflops is not None and self.peak_tflops <= 0:
            raise UserError(
                f"tracking.peak_tflops is {self.peak_tflops}; give the device's dense TFLOP/s, or null"
            )
        if self.wandb not in MODES:
            raise UserError(
                f"tracking.wandb is '{self.wandb}'; it must be one of {', '.join(MODES)}"
                f"{did_you_mean(str(self.wandb), MODES)}"
            )


def without_secrets(value: object, *, key: str = "") -> object:
    """Return plain containers with every secret replaced by `***`.

    A secret is a text under a key that ends in api_key, token, password, secret or credentials, and the user
    and the keys in a URL. Numbers stay: `freq_token: 3` is no secret.
    """
    if isinstance(value, Mapping):
        return {name: without_secrets(item, key=str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item, key=key) for item in value]
    if isinstance(value, str):
        text = _KEY_IN_URL.sub(r"\1=***", _USER_IN_URL.sub("***@", value))
        return "***" if value and _SECRET_KEY.search(key) else text
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)


def wandb_server() -> str:
    """Return the address of the tracker: the public one, or the user's own."""
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def has_wandb_key() -> bool:
    """Look for a key where wandb itself looks: the environment, then the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    named = os.environ.get("NETRC")
    for file in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        with suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(str(file)).authenticators(urlparse(wandb_server()).hostname or ""):
                return True
    return False
