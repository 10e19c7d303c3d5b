"""Remote sensing: Prithvi and SoftCon on images of the Earth, their fine-tuning and maps of whole scenes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PREDICTOR = "apps.remote_sensing.predict.model:SceneModel"
"""What a checkpoint of this domain becomes in Python (`domainfm.load`)."""

PREDICT_EXAMPLE = "--data.path scene.tif --out map.tif"
"""Options of `predict` that the end of a `fit` proposes."""

VERBS = {
    "predict": "apps.remote_sensing.predict.command:main",
    "embed": "apps.remote_sensing.predict.command:embed",
}
"""What `dfm remote-sensing` does in its own way: scenes of any size in, maps or features out."""

GENERATE = "apps.remote_sensing.simulation.command:main"
"""What `dfm data generate remote_sensing/landscapes` runs."""

INHERITED = ("bands",)
"""Values of the data that a recipe takes over from its parent's run, because the network is bound to them."""


def about_data(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the values of a config that `--data.path` makes void: none, a reader fits any such folder."""
    return ()


def inherited_network(network: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the network of a recipe on a parent's: its encoder, where the recipe's network holds one.

    Args:
        network: `class_path` and `init_args` of the parent's.
        own: The same of the recipe's, as far as it says them.
    """
    kind = own.get("class_path")
    if kind is None or kind == network["class_path"]:
        return dict(network)
    from apps.remote_sensing.models.downstream.parents import encoder_described, holds_encoder

    encoder = encoder_described(network)
    if holds_encoder(str(kind)):
        return {"class_path": kind, "init_args": {"encoder": encoder}}
    return encoder if kind == encoder["class_path"] else dict(network)
