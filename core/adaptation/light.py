"""A frozen backbone: only a decoder, or a single linear layer, is trained on its features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from core.adaptation.freezing import FrozenInEvaluation, is_linear, keep_frozen, names_of
from core.backbones.depths import depths
from core.errors import UserError

__all__ = ["LightDecoder", "LinearProbe"]


@dataclass(frozen=True)
class LightDecoder(FrozenInEvaluation):
    """Only the decoder is trained; the rest is frozen and computes as in evaluation, without dropout.

    Args:
        decoder: Names of modules or patterns of parameter names; empty means the network's `decoder_parts`,
            or what stands behind its blocks. What `model.reinitialise` names is trained as well.
    """

    decoder: tuple[str, ...] | str = ()

    def prepare(self, network: nn.Module, fresh: Sequence[str] = ()) -> None:
        """Freeze everything but the decoder."""
        names: Sequence[str] = names_of(self.decoder) or getattr(network, "decoder_parts", ())
        if not names:
            depth_of, layers = depths(network, "LightDecoder without decoder")
            names = [name for name, depth in depth_of.items() if depth == layers - 1]
        if not names:
            raise UserError(
                f"LightDecoder: nothing stands behind the blocks of {type(network).__name__}; name its "
                "decoder"
            )
        keep_frozen(network, names, fresh, where="LightDecoder: decoder")

    def _frozen(self, network: nn.Module, trained: Sequence[str] = ()) -> list[nn.Module]:
        """Return the largest parts of the network of which no parameter is trained."""
        parts: list[nn.Module] = []
        waiting = [network]
        while waiting:
            module = waiting.pop()
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                parts.append(module)
            else:
                waiting.extend(module.children())
        return parts


@dataclass(frozen=True)
class LinearProbe(LightDecoder):
    """One linear layer is trained on frozen features, and norms before it that begin anew.

    Args:
        decoder: The linear layer, or a module that holds no other; empty means the last linear layer outside
            the network's blocks.
    """

    def prepare(self, network: nn.Module, fresh: Sequence[str] = ()) -> None:
        """Freeze everything but the layer."""
        kind = type(network).__name__
        blocks = getattr(network, "blocks", None)
        inside = {id(m) for block in (blocks() if callable(blocks) else ()) for m in block.modules()}
        linear = {name: m for name, m in network.named_modules() if is_linear(m)}
        outside = [name for name, m in linear.items() if id(m) not in inside]
        if not self.decoder and not outside:
            raise UserError(f"LinearProbe: {kind} has no linear layer outside its blocks; name one")
        names = names_of(self.decoder) or (outside[-1],)
        layers = tuple(f"{name}.*" for name in names)
        others = {
            name: parameter.ndim
            for name, parameter in network.named_parameters()
            if any(fnmatchcase(name, pattern) for pattern in fresh)
            and not any(fnmatchcase(name, pattern) for pattern in (*names, *layers))
        }
        if drawn := [name for name, axes in others.items() if axes > 1]:
            raise UserError(
                f"LinearProbe: {', '.join(drawn[:3])} of {kind} begins anew and would stay as drawn, since "
                f"'{', '.join(names)}' alone is trained; take a network whose decoder is linear, or "
                "core.adaptation.LightDecoder"
            )
        keep_frozen(network, names, tuple(others), where="LinearProbe: decoder")
        trained = [name for name, p in network.named_parameters() if p.requires_grad and p.ndim > 1]
        held = sorted({name.rpartition(".")[0] for name in trained})
        if len(held) != 1 or held[0] not in linear:
            raise UserError(
                f"LinearProbe: '{', '.join(names)}' of {kind} holds {len(held)} layers with matrices "
                f"({', '.join(held[:4]) or 'none'}), and a probe is one linear layer; name that, or take "
                "core.adaptation.LightDecoder"
            )
