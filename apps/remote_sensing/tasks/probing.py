"""Probing: frozen features of scenes, as they are prepared for the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apps.remote_sensing.batch import SceneBatch, SceneFacts
from apps.remote_sensing.models.frozen.inputs import ImagePreparation, Prepared, prepared_for
from apps.remote_sensing.models.frozen.pooled_features import Pool, encoder_of, pooled_features
from core.data.checks import at_least
from core.errors import UserError
from core.probe_task import ProbeTask

__all__ = ["Probing"]

_LEARN_FROM = 256  # images that a baseline made of training patches sees


class Probing(ProbeTask):
    """Scores a network's features without training it, by the protocol of the resize study.

    For what it writes see `core.probe_task.ProbeTask`.

    Args:
        network: Any that gives features of images (see `apps.remote_sensing.models.frozen.pooled_features`).
        preparation: How images are prepared; None is what is bound to the weights: the normalisation of the
            run of ours that trained them, else the network's own.
        layers: How many of a transformer's last blocks give their class tokens; None is its own choice.
        pool: `class` token or `mean` token; None is the network's own choice.
        task: See `core.probe_task.ProbeTask`.
    """

    facts_type = SceneFacts
    samples = "scenes"

    def __init__(
        self,
        network: nn.Module,
        *,
        preparation: ImagePreparation | None = None,
        layers: int | None = None,
        pool: Pool | None = None,
        **task: Any,
    ) -> None:
        super().__init__(network, **task)
        at_least(1, room="model", layers=layers)
        self.preparation, self.layers, self.pool = preparation, layers, pool
        self.prepared: Prepared | None = None

    def check_facts(self, facts: SceneFacts) -> None:
        """Refuse data without labels of whole scenes, and data that would be normalised twice."""
        if facts.target not in ("classification", "multilabel"):
            raise UserError(
                f"a probe needs a class, or several labels, of each scene, and the labels of "
                f"{', '.join(facts.sources or ['these data'])} are of the kind '{facts.target}'; "
                "take a reader with classes, such as apps.remote_sensing.data.readers.class_folders.EuroSAT"
            )
        self.prepared = prepared_for(
            encoder_of(self.network), facts, choice=self.preparation, run=_facts_of(self.weights)
        )

    def setup(self, stage: str) -> None:
        """Take the data's facts and say how images are prepared; refuse to be trained."""
        super().setup(stage)
        if self.prepared is not None:
            rule = self.prepared.preparation
            size = "their own size" if rule.size is None else f"{rule.size} pixels"
            bands = ", ".join(self.prepared.network_bands)
            self.say(f"preparation: {rule.normalisation}, {size}, bands {bands}")
            if self.prepared.absent:
                self.say(f"bands that the data lack are zeros: {', '.join(self.prepared.absent)}")

    def features(self, batch: SceneBatch) -> Tensor:
        """Return one row for each scene, `(B, D)` float32, computed in bfloat16 on a GPU.

        Args:
            batch: As the data module gives it, on the device.
        """
        encoder, images = encoder_of(self.network), self._images(batch)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.device.type == "cuda"):
            rows = pooled_features(
                encoder, images, batch.time, batch.location, layers=self.layers, pool=self.pool
            )
        return rows.float()

    def before_training_samples(self, dataset: Any) -> None:
        """Give a baseline that is made of training images some of them, spread over the whole set."""
        if not getattr(self.network, "wants_images", 0):
            return
        chosen = torch.linspace(0, len(dataset) - 1, min(_LEARN_FROM, len(dataset))).long().tolist()
        batch = dataset.__getitems__([(0, index) for index in dict.fromkeys(chosen)])
        self.network.learn_from(self._images(batch)[:, :, 0])  # type: ignore[operator]

    def check_first(self, batch: SceneBatch) -> None:
        """Refuse images in other units than the preparation's."""
        assert self.prepared is not None
        self.prepared.check_units(self._images(batch))

    @property
    def title(self) -> str:
        """Name of the network in tables."""
        encoder = encoder_of(self.network)
        return str(getattr(encoder, "name", None) or type(encoder).__name__)

    def _images(self, batch: SceneBatch) -> Tensor:
        assert self.prepared is not None
        return self.prepared(batch.image, batch.valid)


def _facts_of(weights: str | None) -> SceneFacts | None:
    """Return the facts of the data that a checkpoint of ours was trained on, or None for other weights."""
    from core.checkpoints.files import read_outline
    from core.data.normaliser import stored_facts

    if weights is None or not (path := Path(weights).expanduser()).exists() or path.suffix != ".ckpt":
        return None
    return stored_facts(read_outline(path).get("state_dict") or {}, SceneFacts, where=f"checkpoint {path}")
