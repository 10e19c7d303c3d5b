"""Weights cards: `data_cards/weights/<name>.md`, where published weights come from and what they fit."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.data.cards import read_head
from core.errors import UserError, did_you_mean
from core.files import cards_folder

__all__ = [
    "WeightsCard",
    "WeightsFile",
    "card_names",
    "card_of_file",
    "fetch_weights",
    "fetched_folder",
    "is_fetched",
    "load_weights_card",
    "modules_by_layout",
    "weights_cache",
]


class WeightsFile(BaseModel):
    """One file of published weights; `sha256` is null where it is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[\w.-]+$")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    bytes: int | None = Field(default=None, gt=0)


class NetworkSize(BaseModel):
    """The function that makes the network these weights fit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    class_path: str = Field(pattern=r"^apps\.\w+\.models\.\w+\.\w+$")
    init_args: dict[str, Any] = {}


class WeightsCard(BaseModel):
    """The YAML head of a weights card.

    Args:
        name: The file's name without `.md`; what `weights:` in a recipe says.
        title: One line.
        domain: Package under `apps`.
        system: Module under `apps/<domain>/models`.
        layout: Name of the official layout: the `model_type` of its `config.json`.
        licence: SPDX identifier in lower case.
        hub: Repository of the hub.
        revision: Branch, tag or commit of it.
        files: What is fetched.
        size: The named size the weights fit; null where only their `config.json` tells.
        context: Steps of the past the network reads, for series.
        horizon: Steps it predicts, for series.
        prefix_tuned: Whether it reads a frequency token.
        loss: The loss it was pre-trained with.
        confirmed: Whether repository and revision were found in public material; otherwise they follow the
            pattern.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["weights"]
    name: str
    title: str
    domain: str
    system: str
    layout: str
    licence: str
    hub: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = "main"
    files: tuple[WeightsFile, ...]
    size: NetworkSize | None = None
    context: int | None = None
    horizon: int | None = None
    prefix_tuned: bool = False
    loss: str | None = None
    confirmed: bool = False

    @property
    def module(self) -> str:
        """The system's module, `apps.<domain>.models.<system>`."""
        return f"apps.{self.domain}.models.{self.system}"

    @property
    def source(self) -> str:
        """The hub id with its revision."""
        return f"{self.hub}@{self.revision}"


def card_names() -> list[str]:
    """Return the names of all weights cards."""
    return sorted(path.stem for path in (cards_folder() / "weights").glob("*.md"))


@cache
def load_weights_card(name: str) -> WeightsCard:
    """Read and check the head of `data_cards/weights/<name>.md`.

    Raises:
        UserError: If there is no such card, or its head breaks the schema; the field is named.
    """
    path = cards_folder() / "weights" / f"{name}.md"
    if not path.is_file():
        raise UserError(f"there is no weights card '{name}'{did_you_mean(name, card_names())}")
    try:
        return WeightsCard.model_validate(read_head(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"the head of {path} has a wrong {where}: {first['msg']}") from error


def modules_by_layout() -> dict[str, str]:
    """Return each official layout (`tinytimemixer`) to the module of the system that reads it."""
    return {card.layout: card.module for card in map(load_weights_card, card_names())}


def card_of_file(name: str) -> WeightsCard | None:
    """Return the card that alone lists a file of this name and tells the size of its network, or None."""
    cards = [load_weights_card(card) for card in card_names()]
    holders = [card for card in cards if name in {file.name for file in card.files}]
    return holders[0] if len(holders) == 1 and holders[0].size is not None else None


def weights_cache() -> Path:
    """Return where fetched weights lie: `$DFM_WEIGHTS`, else `domainfm/weights` in the user cache."""
    if named := os.environ.get("DFM_WEIGHTS"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "domainfm" / "weights"


def is_fetched(card: WeightsCard) -> bool:
    """Return whether all of the card's files lie in the cache."""
    return all((weights_cache() / card.name / file.name).is_file() for file in card.files)


def fetched_folder(card: WeightsCard) -> Path:
    """Return the folder with the card's files.

    Raises:
        UserError: If they were not fetched; the sentence names the command.
    """
    folder = weights_cache() / card.name
    if is_fetched(card):
        return folder
    raise UserError(
        f"the weights {card.name} ({card.source}) are not in {folder}: run `dfm checkpoint fetch "
        f"{card.name}`, or copy their files there"
    )


def fetch_weights(card: WeightsCard, folder: str | os.PathLike[str] | None = None) -> Path:
    """Download the card's files from the hub, verify the hashes it knows, and return their folder.

    A file that is there with the right hash is not fetched again; `folder` None is where `fetched_folder`
    looks.

    Raises:
        UserError: If the files cannot be reached or do not have the card's hash.
    """
    from huggingface_hub import hf_hub_url

    from core.data.download import download

    target = Path(folder) if folder is not None else weights_cache() / card.name
    endpoint = os.environ.get("HF_ENDPOINT") or None
    for file in card.files:
        url = hf_hub_url(card.hub, file.name, revision=card.revision, endpoint=endpoint)
        download(url, target / file.name, sha256=file.sha256, size=file.bytes)
    return target
