"""Recorded cases of scOT: forward pass, hidden states, loss, gradients and a rollout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from apps.pde.models.poseidon import ScOT
    from core.parity import Case

__all__ = ["run"]


def run(case: Case) -> Mapping[str, Any]:
    """Return everything that a case recorded, under its names."""
    import torch

    from apps.pde.models.poseidon import KEY_MAP, from_official_config
    from core.objectives.fields import GroupedRelative

    network = case.filled(from_official_config(case.config))
    inputs = case.group("input")
    fields, labels, mask = inputs["pixel_values"], inputs.get("labels"), inputs.get("pixel_mask")
    time = inputs.get("time")
    seen: dict[str, Tensor] = {}
    handles = _watch(network, seen)
    prediction = network(fields, time)
    for handle in handles:
        handle.remove()
    results: dict[str, Tensor] = {"output/prediction": prediction, **seen}
    if labels is not None:
        if mask is not None:
            overwritten = mask if mask.dim() == 4 else mask[:, :, None, None]
            results["output/prediction_with_mask"] = torch.where(overwritten, labels, prediction)
        objective = GroupedRelative(p=int(case.config.get("p", 1)))
        groups = case.config.get("channel_slice_list_normalized_loss")
        loss = objective(prediction[:, None], labels[:, None], mask=mask, groups=groups)
        loss.backward()
        results["loss/loss"] = loss
        results |= case.gradients(network, KEY_MAP)
    with torch.no_grad():
        other = inputs.get("pixel_values_other_resolution")
        if other is not None:
            results["output/prediction_other_resolution"] = network(
                other, None if time is None else time[: other.shape[0]]
            )
        if "output/rollout_3_equal_steps" in case.tensors:
            results["output/rollout_3_equal_steps"] = _rollout(network, fields, time, steps=3)
    return results


def _watch(network: ScOT, seen: dict[str, Tensor]) -> list[Any]:
    def keep(name: str, *, first: bool = False) -> Callable[..., None]:
        def hook(module: object, inputs: object, output: Any) -> None:
            seen[name] = output[0] if first else output

        return hook

    handles = [network.embeddings.register_forward_hook(keep("output/encoder_hidden_0"))]
    for i, stage in enumerate(network.encoder.layers, start=1):
        handles.append(stage.register_forward_hook(keep(f"output/encoder_hidden_{i}", first=True)))
    handles.append(network.decoder.register_forward_hook(keep("output/decoder_last_hidden")))
    return handles


def _rollout(network: ScOT, fields: Tensor, time: Tensor | None, *, steps: int) -> Tensor:
    """Apply the network `steps` times with equal parts of the time; channels it does not predict stay."""
    import torch

    part = None if time is None else time / steps
    for _ in range(steps):
        prediction = network(fields, part)
        fields = torch.cat([prediction, fields[:, prediction.shape[1] :]], 1)
    return fields[:, : network.out_channels]
