"""How recorded cases of core's own systems map onto their networks, through their official layouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from core.parity import Case

__all__ = ["CASES"]


def _llama(case: Case) -> Mapping[str, Tensor]:
    """Every block's output, the first attention, logits, loss, gradients, and continuations."""
    import torch

    from core.backbones.kv_cache import KVCache
    from core.checkpoints.official.llama import KEY_MAP, from_official_config
    from core.checkpoints.weights import load_weights
    from core.objectives.next_token import next_token

    network = from_official_config(case.config)
    load_weights(case.weights(), network)
    network.to(case.device).eval()
    inputs = case.group("input")
    ids = inputs["input_ids"]
    results: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: object, inputs: object, output: Tensor) -> None:
            results[name] = output

        return hook

    def first(module: Any, inputs: tuple[Tensor], where: dict[str, Tensor]) -> None:
        cos, sin = where["cos"], where["sin"]
        results["output/rope_cos"] = torch.cat((cos, cos), dim=-1)[0]
        results["output/rope_sin"] = torch.cat((sin, sin), dim=-1)[0]
        query, key, _ = (t.transpose(1, 2) for t in module.project(inputs[0], cos, sin))
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        results["output/attn_0"] = scores.masked_fill(future, float("-inf")).softmax(-1)

    depth = len(network.layers)
    hooks = [network.embed_tokens.register_forward_hook(keep("output/hidden_0"))]
    for number, block in enumerate(network.blocks(), 1):
        if number < depth:
            hooks.append(block.register_forward_hook(keep(f"output/hidden_{number}")))
    hooks.append(network.norm.register_forward_hook(keep(f"output/hidden_{depth}")))
    attention: Any = network.layers[0].self_attn
    hooks.append(attention.register_forward_pre_hook(first, with_kwargs=True))
    output = network(ids)
    for hook in hooks:
        hook.remove()
    results["output/logits"] = output.logits
    if "labels" in inputs:
        labels = torch.full_like(inputs["labels"], -100)
        labels[:, :-1] = inputs["labels"][:, 1:]
        total, count = next_token(output.logits, labels)
        results["loss/ce"] = total / count
        results["loss/ce"].backward()
        own = {key: p.grad for key, p in network.named_parameters() if p.grad is not None}
        results.update({f"grad/{key}": grad for key, grad in KEY_MAP.to_official(own).items()})
    with torch.no_grad():
        if "prompt_ids" in inputs:
            wanted = case.tensors["output/greedy_ids"].shape[1]
            results["output/greedy_ids"] = _greedy(network, inputs["prompt_ids"], wanted)
        for name in case.group("output"):
            if name.startswith("cached_logits_"):
                start, end = (int(word) for word in name.split("_")[-2:])
                cache = KVCache(ids.shape[1])
                network(ids[:, :start], cache=cache)
                results[f"output/{name}"] = network(ids[:, start:end], cache=cache).logits
        if "left_pad_mask" in inputs:
            mask = inputs["left_pad_mask"]
            logits = network(ids, mask=mask, positions=inputs.get("left_pad_position_ids")).logits
            results["output/left_pad_logits_row0_valid"] = logits[0][mask[0].bool()]
    return results


def _greedy(network: Any, ids: Tensor, wanted: int) -> Tensor:
    """Return `ids` continued to `wanted` tokens, with the cache."""
    import torch

    from core.backbones.kv_cache import KVCache

    cache = KVCache(wanted)
    new = ids
    while ids.shape[1] < wanted:
        new = network(new, cache=cache, last=1).logits.argmax(-1)
        ids = torch.cat((ids, new), dim=1)
    return ids


def _soups(case: Case) -> Mapping[str, Any]:
    """The uniform soup and the greedy one of the case's models, by the score that its notes describe."""
    import torch

    from core.checkpoints.soups import greedy_soup, uniform_soup

    weights, target = case.state(), case.group("input")["target_w"]
    models = [
        {name: weights[f"model{number}.{name}"] for name in ("w", "b")}
        for number in range(case.config["models"])
    ]

    def score(model: Mapping[str, Tensor]) -> float:
        return -float(((model["w"] - target) ** 2).mean() + (model["b"] ** 2).mean())

    scores = [score(model) for model in models]
    uniform = uniform_soup(models)
    greedy, kept, best = greedy_soup(models, scores, score)
    results: dict[str, Any] = {f"output/uniform.{name}": tensor for name, tensor in uniform.items()}
    results |= {f"output/greedy.{name}": tensor for name, tensor in greedy.items()}
    return results | {
        "output/order": torch.tensor(sorted(range(len(models)), key=lambda number: -scores[number])),
        "output/greedy_ingredients": torch.tensor(kept),
        "output/greedy_score": torch.tensor(best, dtype=torch.float64),
        "output/uniform_score": torch.tensor(score(uniform), dtype=torch.float64),
    }


CASES: dict[tuple[str, str], Callable[[Case], Mapping[str, Any]]] = {
    ("llama", "llama"): _llama,
    ("recipes", "soups"): _soups,
}
