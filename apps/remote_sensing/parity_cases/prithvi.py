"""Recorded cases of Prithvi: autoencoder, features, positions, gap filling, and version 1's neck."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from apps.remote_sensing.models.prithvi import PrithviMAE, key_maps
from apps.remote_sensing.models.prithvi_eo import official
from apps.remote_sensing.models.prithvi_eo.encoder import Prithvi, frames_apart
from apps.remote_sensing.models.prithvi_eo.segmenter import PrithviUpscaled
from apps.remote_sensing.tasks.gap_scores import gap_scores
from core.backbones.patches import patchify
from core.checkpoints.weights import load_weights
from core.objectives.masked_autoencoding import masked_loss

if TYPE_CHECKING:
    from torch import Tensor, nn

    from core.checkpoints.keymap import KeyMap
    from core.parity import Case

__all__ = ["run"]


def run(case: Case) -> Mapping[str, Any]:
    """Return everything that a case recorded, under its names."""
    kinds = {"mae": _mae, "gap_filling": _gap_filling, "encoder_neck": _encoder_neck}
    results = dict(kinds[case.kind](case))
    for name, loss in case.group("loss").items():  # recorded with one element, ours are scalars
        if f"loss/{name}" in results:
            results[f"loss/{name}"] = results[f"loss/{name}"].reshape(loss.shape)
    return results


def _mae(case: Case) -> Mapping[str, Any]:
    network, results = _autoencoder(case), {}
    given = case.group("input")
    x, time, location = given["x"], given.get("temporal_coords"), given.get("location_coords")
    latent: list[Tensor] = []
    handle = network.encoder.norm.register_forward_hook(lambda module, args, out: latent.append(out))
    out = network(x, time, location, noise=given.get("noise"))
    handle.remove()
    results |= {
        "loss/loss": out.loss,
        "output/latent": latent[0],
        "output/mask": out.mask.to(torch.float32),
        "output/ids_restore": out.masking.restore,
        "output/pred": out.prediction,
        "output/pred_image": network.image(out.prediction, out.grid),
        "output/mask_image": network.mask_image(out.mask, out.grid).to(torch.float32),
    }
    results |= _gradients(case, network, out.loss)
    with torch.no_grad():
        target = patchify(network.encoder.images(x), network.encoder.patch)
        for norm_pix in (False, True):
            name = f"loss/loss_norm_pix_{str(norm_pix).lower()}"
            results[name] = masked_loss(out.prediction, target, out.mask, norm_pix=norm_pix)
        results |= _features(case, network.encoder, x, time, location)
    for name in ("output/pred_image", "output/mask_image"):
        recorded = case.tensors.get(name)
        if recorded is not None and recorded.dim() < results[name].dim():
            results[name] = results[name].squeeze(-3)  # a frame axis that was put in is taken out again
    return results


def _features(
    case: Case, encoder: Prithvi, x: Tensor, time: Tensor | None, location: Tensor | None
) -> dict[str, Any]:
    """Return what `forward_features` gave, positions, and codes of date and place."""
    given, results = case.group("input"), {}
    grid = encoder.grid_of(x)
    for number, tokens in enumerate(encoder.features(x, time, location)):
        results[f"output/feat_{number}"] = tokens
        results[f"output/neck_{number}"] = frames_apart(tokens, grid)
    results["output/nocoords_feat_last"] = encoder(x)
    results["output/pos_embed"] = encoder.positions(grid)
    if encoder.time_code is not None and time is not None:
        results["output/temporal_embed"] = encoder.time_code(time, grid[1] * grid[2])
    if encoder.location_code is not None and location is not None:
        results["output/location_embed"] = encoder.location_code(location)
    for name, other in given.items():
        if not name.startswith("x_"):
            continue
        label, count = name.removeprefix("x_"), len(other)
        when = time if time is None or other.dim() == 4 or other.shape[2] == time.shape[1] else None
        first = [None if t is None else t[:count] for t in (when, location)]
        results[f"output/{label}_pos_embed"] = encoder.positions(encoder.grid_of(other))
        made = encoder.features(other, *first)
        results[f"output/{label}_feat_last"] = made[-1]
        results |= {f"output/{label}_feat_{number}": tokens for number, tokens in enumerate(made)}
    return results


def _gap_filling(case: Case) -> Mapping[str, Any]:
    network = _autoencoder(case)
    given = case.group("input")
    x, cloud = (
        given[name].unsqueeze(2) if given[name].dim() == 4 else given[name] for name in ("x", "cloud")
    )
    out = network(x, gaps=cloud, count_in_first=True)
    image = network.image(out.prediction, out.grid)
    constants = case.head.get("metric_constants") or {}
    scores = gap_scores(
        image.detach(),
        x,
        cloud,
        mean=constants.get("mean", network.encoder.mean),
        std=constants.get("std", network.encoder.std),
        scale=1.0 / float(constants.get("scale", 1.0 / network.encoder.scale)),
    )
    return {
        "loss/loss": out.loss,
        "loss/ssim": scores.ssim,
        "loss/mse": scores.mse,
        "loss/mae": scores.mae,
        "output/mask": out.mask.to(torch.float32),
        "output/pred": out.prediction,
        "output/pred_image": image.squeeze(2) if given["x"].dim() == 4 else image,
        **_gradients(case, network, out.loss),
    }


def _encoder_neck(case: Case) -> Mapping[str, Any]:
    arguments = official.arguments(_config(case), mae=False)
    neck = dict(case.config["neck"])
    backbone = Prithvi(**arguments)
    frames = int(neck["embed_dim"]) // backbone.width
    network = PrithviUpscaled(backbone, outputs=int(neck["output_embed_dim"]), frames=frames)
    table = official.map_for(backbone, holder="backbone.", heads=True)
    _fill(case, network, table)
    tokens: list[Tensor] = []
    handle = backbone.register_forward_hook(lambda module, args, out: tokens.append(out))
    made = network(case.group("input")["x"])
    handle.remove()
    loss = made.square().mean()
    return {
        "loss/loss": loss,
        "output/neck": made,
        "output/tokens": tokens[0],
        **_gradients(case, network, loss, table=table),
    }


def _autoencoder(case: Case) -> PrithviMAE:
    network = PrithviMAE(**official.arguments(_config(case), mae=True))
    _fill(case, network, key_maps(network)[0])
    return network


def _config(case: Case) -> dict[str, Any]:
    eps = case.head.get("layer_norm_eps")
    return case.config if eps is None else {"layer_norm_eps": eps, **case.config}


def _fill(case: Case, network: nn.Module, table: KeyMap) -> None:
    load_weights(case.weights(), network, key_map=table)
    network.to(case.device).train(case.training)


def _gradients(
    case: Case, network: nn.Module, loss: Tensor, *, table: KeyMap | None = None
) -> dict[str, Any]:
    """Return gradients under the recorded names, whichever of the official layouts those have."""
    loss.backward()
    table = key_maps(network)[0] if table is None else table
    own = {name: p.grad for name, p in network.named_parameters()}
    return {f"grad/{name}": own.get(table.our_name(name) or "") for name in case.group("grad")}
