"""Data cards: Markdown whose YAML head says where a data set comes from and what it holds."""

from __future__ import annotations

import gzip
import hashlib
import tempfile
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from core.data.download import data_folder, download, extract_member, sha256_of
from core.errors import UserError, did_you_mean
from core.files import cards_folder

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = [
    "Card",
    "CardFile",
    "FileState",
    "Splits",
    "body",
    "card_names",
    "fetch",
    "list_cards",
    "list_heads",
    "load_card",
    "read_card",
    "read_head",
    "verify",
]

_STRICT = {"extra": "forbid"}


@dataclass(frozen=True)
class CardFile:
    """One file of a data set.

    Attributes:
        path: Where it lies in the set's folder.
        urls: Addresses of the file, or of an archive that holds it; mirrors are tried in turn.
        sha256: Its hash, 64 hexadecimal digits; of the file itself, not of the archive.
        bytes: Its length.
        member: Its path, or the end of it, in the archive at `urls`; None where they give the file itself.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    path: str
    urls: list[str]
    sha256: str
    bytes: int
    member: str | None = None

    def __post_init__(self) -> None:
        if Path(self.path).is_absolute() or ".." in Path(self.path).parts:
            raise ValueError(f"path '{self.path}' must be relative and stay in the folder")
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise ValueError(f"sha256 '{self.sha256}' must be 64 lower-case hexadecimal digits")
        if self.bytes < 1:
            raise ValueError(f"bytes is {self.bytes}; it must be positive")


@dataclass(frozen=True)
class Splits:
    """Split of the rows into training, validation and test.

    Attributes:
        kind: `rows`: borders are row numbers; `fractions`: shares of the rows; `tail`: the last steps of
            every series are the test; `none`: left to the recipe.
        train: Rows `[first, last)`, or a share.
        val: The same for validation.
        test: The same for test; for `tail` the number of steps.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    kind: Literal["rows", "fractions", "tail", "none"]
    train: list[int] | float | None = None
    val: list[int] | float | None = None
    test: list[int] | float | int | None = None


@dataclass(frozen=True)
class Card:
    """The YAML head of a data card.

    Attributes:
        name: The file's name without `.md`; what a recipe's `card:` says.
        domain: Package under `apps`.
        title: One line.
        source: Who published it, and where.
        licence: As the publisher states it, or "none stated".
        citation: What to cite.
        layout: How a file is to be read.
        frequency: Sampling rate as pandas writes it, for series.
        splits: Training, validation and test.
        normalisation: What is done to the values, computed from which rows.
        files: What is downloaded; empty for data that ships inside a dependency or is too large to fetch.
        package: The dependency that ships it.
        hub: Where the files are to be had by hand (a hub's id, a DOI), for sets too large to fetch here.
        time: Columns with the time stamp.
        columns: Column name to meaning and unit, in the order of the file.
        notes: What a user must know before trusting a number.
        details: What only its domain understands and checks.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    name: str
    domain: str
    title: str
    source: str
    licence: str
    citation: str
    layout: str
    splits: Splits
    normalisation: str
    frequency: str | None = None
    files: list[CardFile] = field(default_factory=list)
    package: str | None = None
    hub: str | None = None
    time: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Length of all files together."""
        return sum(file.bytes for file in self.files)


@dataclass(frozen=True)
class FileState:
    """Result of `verify` for one file: `state` is `good`, `missing` or `wrong`."""

    file: CardFile
    path: Path
    state: Literal["good", "missing", "wrong"]


def card_names() -> list[str]:
    """Return the names of all data cards."""
    return sorted(path.stem for path in cards_folder().glob("*.md") if path.stem.lower() != "readme")


def load_card(name: str) -> Card:
    """Read and check `data_cards/<name>.md`.

    Raises:
        UserError: If there is no such card, or its head breaks the schema; the field is named.
    """
    names = card_names()
    if name not in names:
        near = did_you_mean(name, names) or "; `dfm data list` lists them all"
        raise UserError(f"there is no data card '{name}'{near}")
    return read_card(cards_folder() / f"{name}.md")


def list_cards(domain: str | None = None) -> list[Card]:
    """Return all cards, or those of one domain (`-` and `_` alike), by domain and name.

    Raises:
        UserError: If no card has this domain.
    """
    return [read_card(cards_folder() / f"{head['name']}.md") for head in list_heads(domain)]


def list_heads(domain: str | None = None) -> list[dict[str, Any]]:
    """Return the heads of `list_cards`, of which only the names are checked: without the schema it is quick.

    Raises:
        UserError: If no card has this domain, or a head lacks a name or has one too many.
    """
    allowed = {entry.name for entry in fields(Card)}
    needed = {entry.name for entry in fields(Card) if entry.default is entry.default_factory is MISSING}
    heads = []
    for path in (cards_folder() / f"{name}.md" for name in card_names()):
        head = read_head(path)
        right = needed <= head.keys() <= allowed
        heads.append(head if right else vars(read_card(path)))
    heads.sort(key=lambda head: (head["domain"], head["name"]))
    if domain is None:
        return heads
    wanted = domain.replace("-", "_")
    domains = sorted({head["domain"] for head in heads})
    if wanted not in domains:
        near = did_you_mean(wanted, domains) or f"; there are cards of {', '.join(domains)}"
        raise UserError(f"no data card is of the domain '{domain}'{near}")
    return [head for head in heads if head["domain"] == wanted]


def read_card(path: Path) -> Card:
    """Read and check the card in one file.

    Raises:
        UserError: If its head is missing, is no YAML, or breaks the schema.
    """
    from pydantic import ValidationError

    try:
        card = _schema().validate_python(read_head(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "head"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise UserError(f"the head of {path} has a wrong entry at {where}: {first['msg']}{more}") from error
    if card.name != path.stem:
        raise UserError(f"the head of {path} has the name '{card.name}'; it must be '{path.stem}'")
    if not card.files and card.package is None and card.hub is None:
        raise UserError(f"the head of {path} names neither files nor the package or hub that has the data")
    return card


def read_head(path: Path) -> dict[str, Any]:
    """Return the YAML head of a card in one file, unchecked.

    Raises:
        UserError: If there is none, or it is no YAML.
    """
    import yaml

    parts = path.read_text(encoding="utf-8").split("---\n", 2)
    if len(parts) != 3 or parts[0]:
        raise UserError(f"{path} does not begin with a YAML head between two lines of ---")
    try:
        head = yaml.load(parts[1], Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise UserError(f"the head of {path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(head, dict):
        raise UserError(f"the head of {path} has a wrong entry at head: it holds no names with values")
    return head


def body(card: Card) -> str:
    """Return what a card says below its head, in Markdown."""
    return (cards_folder() / f"{card.name}.md").read_text(encoding="utf-8").split("---\n", 2)[2]


def fetch(card: Card, folder: str | Path | None = None, *, progress: bool = True) -> list[Path]:
    """Download what is missing of a card's files, check every hash, and return their paths.

    The data `folder` is by default `DFM_DATA` or the cache. Files go into `<folder>/<card's name>`; one that
    lies in the folder already, gzip-compressed or not, is used where it is. `progress` draws bars on a
    terminal.

    Raises:
        UserError: If a file cannot be had, or is not the right one.
    """
    root = data_folder() if folder is None else Path(folder).expanduser()
    states = {state.file.path: state for state in verify(card, root)}
    if all(state.state == "good" for state in states.values()):
        return [state.path for state in states.values()]  # the folder may be one that cannot be written to
    archives: dict[str, Path] = {}
    with _scratch(root, card) as scratch:
        for file in card.files:
            state = states[file.path]
            if state.state == "good":
                continue
            target = root / card.name / file.path
            if file.member is None:
                download(file.urls, target, sha256=file.sha256, size=file.bytes, progress=progress)
            else:
                _fetch_member(card, file, target, Path(scratch), archives, progress)
            states[file.path] = FileState(file, target, "good")
    return [states[file.path].path for file in card.files]


def verify(card: Card, folder: str | Path | None = None) -> list[FileState]:
    """Compare a card's files with their hashes; `x.csv.gz` is as good as `x.csv` if it unpacks to it."""
    root = data_folder() if folder is None else Path(folder).expanduser()
    states = []
    for file in card.files:
        plain = [root / card.name / file.path, root / file.path, root / card.name / Path(file.path).name]
        paths = [path for each in plain for path in (each, each.with_name(each.name + ".gz"))]
        present = [path for path in paths if path.is_file()]
        good = next((path for path in present if _hash(path, file) == file.sha256), None)
        if good is not None:
            states.append(FileState(file, good, "good"))
        elif present:
            states.append(FileState(file, present[0], "wrong"))
        else:
            states.append(FileState(file, paths[0], "missing"))
    return states


def _fetch_member(
    card: Card, file: CardFile, target: Path, scratch: Path, archives: dict[str, Path], progress: bool
) -> None:
    assert file.member is not None
    reasons = []
    for url in file.urls:
        try:
            if url not in archives:
                archives[url] = download(url, scratch / f"archive-{len(archives)}", progress=progress)
            unpacked = extract_member(archives[url], file.member, scratch / "member")
            if (digest := sha256_of(unpacked)) == file.sha256:
                target.parent.mkdir(parents=True, exist_ok=True)
                unpacked.replace(target)
                return
            reasons.append(f"{file.member} in {url} has the SHA-256 {digest} instead of {file.sha256}")
        except UserError as error:
            reasons.append(str(error))
    raise UserError(f"cannot fetch {file.path} of the card {card.name}: {'; '.join(reasons)}")


def _scratch(root: Path, card: Card) -> tempfile.TemporaryDirectory[str]:
    """Return a temporary folder on the same disk as the data, so that a finished file is only renamed."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=f".{card.name}.", suffix=".tmp", dir=root)
    except OSError as error:
        raise UserError(
            f"cannot write into {root}: {error.strerror}; name another folder with --folder or DFM_DATA"
        ) from error


def _hash(path: Path, file: CardFile) -> str:
    if path.suffix != ".gz" or file.path.endswith(".gz"):
        return sha256_of(path) if path.stat().st_size == file.bytes else ""
    try:
        with gzip.open(path) as unpacked:
            return hashlib.file_digest(unpacked, "sha256").hexdigest()  # type: ignore[arg-type]
    except (OSError, EOFError):
        return ""


@cache
def _schema() -> TypeAdapter[Card]:
    from pydantic import TypeAdapter

    return TypeAdapter(Card)
