"""A checkpoint alone, made to predict without Lightning: networks, facts, a device and a batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import nn

from core.checkpoints.files import read_outline
from core.checkpoints.weights import network_from
from core.data.facts import Facts
from core.data.normaliser import stored_facts
from core.errors import UserError

__all__ = ["Predictor"]

Kind = TypeVar("Kind", bound=Facts)
Path_ = str | Path


class Predictor(Generic[Kind]):
    """One network or several (an ensemble's members), each with the facts of the data that it was trained on.

    Every domain's predictor is a subclass that takes raw files of its field and gives physical units.

    Args:
        networks: One, or several members.
        facts: Of each; None where weights come without (see `needs_facts`).
        names: What messages call each.
        records: What each checkpoint says of its origin: config, licences, sources.
        device: Where to compute.
        batch_size: Samples at once; no result depends on it.

    Attributes:
        network: The first member.
        facts: Its facts.
        name: What messages call it.

    Raises:
        UserError: If `batch_size` is below 1.
    """

    facts_type: ClassVar[type[Facts]] = Facts
    """The domain's facts."""
    needs_facts: ClassVar[bool] = True
    """Whether weights without facts (official ones) are refused."""

    def __init__(
        self,
        networks: nn.Module | Sequence[nn.Module],
        facts: Kind | Sequence[Kind] | None = None,
        *,
        names: Sequence[str] = ("the network",),
        records: Sequence[Mapping[str, Any]] = (),
        device: str | torch.device = "cpu",
        batch_size: int = 64,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"the batch size is {batch_size}; it must be at least 1")
        members = [networks] if isinstance(networks, nn.Module) else list(networks)
        self.device, self.batch_size = torch.device(device), batch_size
        self.networks = [network.to(self.device).eval() for network in members]
        self.all_facts: list[Kind] = list(facts) if isinstance(facts, Sequence) else [facts]  # type: ignore[list-item]
        self.names = (
            list(names) if len(names) == len(members) else [f"member {n + 1}" for n in range(len(members))]
        )
        self.records = list(records) or [{} for _ in members]
        self.network, self.facts, self.name = self.networks[0], self.all_facts[0], self.names[0]

    @property
    def licences(self) -> list[str]:
        """Licences of weights and data of all members, each once."""
        return self._origins("licences")

    @property
    def sources(self) -> list[str]:
        """Where weights and data of all members come from, each once."""
        return self._origins("sources")

    @classmethod
    def from_checkpoint(
        cls, path: Path_ | Sequence[Path_], *, device: str | torch.device = "cpu", **settings: Any
    ) -> Self:
        """Return the predictor of one checkpoint, or of several as members.

        Args:
            path: Our checkpoint; where facts are not needed also a hub folder, a card or a hub id.
            device: Where to compute.
            **settings: Further arguments of the class.

        Raises:
            UserError: If one is missing or damaged, or lacks the facts that prediction needs.
        """
        paths = [str(path)] if isinstance(path, str | Path) else [str(one) for one in path]
        read = [cls._read(one) for one in paths]
        return cls(
            [network_from(one) for one in paths],
            [facts for facts, _ in read],
            names=paths,
            records=[record for _, record in read],
            device=device,
            **settings,
        )

    @classmethod
    def _read(cls, path: str) -> tuple[Any, Mapping[str, Any]]:
        """Return the facts and the record of a checkpoint."""
        file = Path(path)
        ours = path.endswith(".ckpt")
        if ours and not file.exists():
            raise UserError(f"checkpoint {path} does not exist; `dfm checkpoint list` shows what there is")
        content = read_outline(file) if ours else {}
        facts = stored_facts(content.get("state_dict") or {}, cls.facts_type, where=f"checkpoint {path}")
        if facts is None and cls.needs_facts:
            domain = cls.facts_type.__module__.split(".")[1].replace("_", "-")
            raise UserError(
                f"checkpoint {path} does not say what data it was trained on; give one that "
                f"`dfm {domain} fit` wrote"
            )
        return facts, content.get("domainfm") or {}

    def _origins(self, key: str) -> list[str]:
        found: list[str] = []
        for facts, record in zip(self.all_facts, self.records, strict=True):
            found += [str(entry) for entry in (*getattr(facts, key, ()), *(record.get(key) or ()))]
        return list(dict.fromkeys(found))
