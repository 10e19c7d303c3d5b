"""The recorded protocol of the resize study: preparation, baselines without training, neighbours, scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from core.parity import Case

__all__ = ["run"]


def run(case: Case) -> Mapping[str, Any]:
    """Return everything that a case recorded, under its names."""
    given, config = case.group("input"), case.config
    results = dict(_prepared(given, config)) if "image" in given else {}
    if "rgb" in given:
        from apps.remote_sensing.models.frozen.resizing import SECO_RGB

        results["output/seco_rgb"] = SECO_RGB.normalise(given["rgb"])
    if "zca_patches" in given:
        from apps.remote_sensing.models.frozen.untrained import whitened

        results["output/zca_filters"] = whitened(given["zca_patches"])
    if "x_train" in given:
        results |= _neighbours(given, k=int(config.get("knn_k", 5)))
    return results


def _prepared(given: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    from apps.remote_sensing.models.frozen.resizing import Preparation, resize
    from apps.remote_sensing.models.frozen.untrained import Mosaiks, image_statistics

    image = given["image"]
    divided = Preparation(normalisation="divide", divisor=10000.0).normalise(image)
    convolutions = Mosaiks(
        image.shape[1],
        features=int(config.get("feat_features", 512)),
        kernel=int(config.get("feat_ks", 3)),
        bias=float(config.get("feat_bias", -1.0)),
        seed=int(config.get("feat_rcfseed", 0)) or None,
    ).to(image.device)
    results = {
        "output/div10000": divided,
        "output/resized": resize(divided, int(config.get("feat_size", 224))),
        "output/imagestats": image_statistics(divided),
        "output/rcf_weights": convolutions.weight,
        "output/rcf_bias": convolutions.bias,
        "output/rcf_features": convolutions(divided),
    }
    if "mean" in given:
        mean, std = given["mean"].tolist(), given["std"].tolist()
        standard = Preparation(normalisation="standardise", mean=mean, std=std)
        results["output/standardised"] = standard.normalise(image)
    return results


def _neighbours(given: Mapping[str, Tensor], *, k: int) -> dict[str, Any]:
    from core.metrics.probes import Scaler, class_scores, label_scores, nearest, vote, vote_labels

    train, test = given["x_train"], given["x_test"]
    scaler = Scaler.fit(train)
    neighbours = nearest(train, test, k=k)
    results: dict[str, Any] = {"output/x_test_scaled": scaler(test)}
    scores: dict[str, float] = {}
    if "y_train" in given:
        raw = vote(neighbours, given["y_train"])
        scaled = vote(nearest(scaler(train), scaler(test), k=k), given["y_train"])
        results |= {"output/pred_raw": raw, "output/pred_scaled": scaled}
        scores = class_scores(raw, given["y_test"])
        scores["accuracy_raw"] = scores.pop("accuracy")
        scores["accuracy_scaled"] = class_scores(scaled, given["y_test"])["accuracy"]
    if "ml_train" in given:
        shares, labels = vote_labels(neighbours, given["ml_train"])
        results |= {"output/ml_score": shares, "output/ml_pred": labels}
        several = label_scores(shares, labels, given["ml_test"])
        scores |= {f"ml_{name}": score for name, score in several.items()}
    return results | {f"loss/{name}": _one(score) for name, score in scores.items()}


def _one(score: float) -> Tensor:
    import torch

    return torch.tensor([score], dtype=torch.float64)
