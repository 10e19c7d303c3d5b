"""Whether Weights & Biases can be used from here, without importing it and without keeping the key."""

from __future__ import annotations

import netrc
import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlparse

__all__ = ["key_is_known", "server"]


def server() -> str:
    """Return the address of the tracker: the public one, or the user's own."""
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def key_is_known() -> bool:
    """Look for a key where wandb itself looks: the environment, then the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    named = os.environ.get("NETRC")
    for file in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        with suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(str(file)).authenticators(urlparse(server()).hostname or ""):
                return True
    return False
