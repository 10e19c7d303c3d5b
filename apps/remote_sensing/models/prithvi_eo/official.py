"""Official layouts of Prithvi: parameter names and configurations.

Files come with `encoder.` and `decoder.` (version 2), without either (version 1), with `backbone.`, `neck.`
and heads (version 1 fine-tuned by mmsegmentation), wrapped by a trainer (`model.`, `module.`), and with
`_timm_module.` inside names (early fine-tuned files).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apps.remote_sensing.models.prithvi_eo.autoencoder import PrithviDecoder
    from apps.remote_sensing.models.prithvi_eo.encoder import Prithvi

from apps.remote_sensing.data.bands import HLS, canonical
from apps.remote_sensing.models.band_maps import BandedMap, band_rule
from core.checkpoints.keymap import Rename, Reshape
from core.errors import UserError

__all__ = ["KEY_MAP", "PrithviMap", "arguments", "config", "map_for", "segmenter_arguments"]

_ENCODER = (
    Rename("encoder.cls_token", "encoder.cls_token"),
    Rename("encoder.pos_embed", "encoder.pos_embed"),
    Rename("encoder.patch_embed.proj.{leaf}", "encoder.patch_embed.proj.{leaf}"),
    Rename("encoder.temporal_embed_enc.scale", "encoder.time_code.scale"),
    Rename("encoder.location_embed_enc.scale", "encoder.location_code.scale"),
    Rename("encoder.blocks.{rest*}", "encoder.layers.{rest*}"),
    Rename("encoder.norm.{leaf}", "encoder.norm.{leaf}"),
)
_DECODER = (
    Rename("decoder.decoder_embed.{leaf}", "decoder.embed.{leaf}"),
    Rename("decoder.mask_token", "decoder.mask_token"),
    Rename("decoder.decoder_pos_embed", "decoder.pos_embed"),
    Rename("decoder.temporal_embed_dec.scale", "decoder.time_code.scale"),
    Rename("decoder.location_embed_dec.scale", "decoder.location_code.scale"),
    Rename("decoder.decoder_blocks.{rest*}", "decoder.layers.{rest*}"),
    Rename("decoder.decoder_norm.{leaf}", "decoder.norm.{leaf}"),
    Rename("decoder.decoder_pred.{leaf}", "decoder.predict.{leaf}"),
)
_HEADS = ("neck", "decode_head", "auxiliary_head")
_WRAPPERS = ("model.", "module.", "state_dict.")
_ROOTS = ("encoder.", "decoder.", *(f"{head}." for head in _HEADS), "head.", "aux_heads.")


@dataclass(frozen=True)
class PrithviMap(BandedMap):
    """A table that reads every official layout.

    Args:
        holder: What stands before the encoder's names in the network: `encoder.` in the autoencoder,
            `backbone.` in version 1's segmentation, nothing in the encoder alone.
    """

    holder: str = "encoder."

    def ignores(self, official: str) -> bool:
        """Tell whether an official name carries nothing the network needs."""
        return super().ignores(_canonical(official))

    def our_name(self, official: str) -> str | None:
        """Return our name of an official parameter, or None if no rule knows it."""
        name = super().our_name(_canonical(official))
        if name is None or not name.startswith("encoder."):
            return name
        return self.holder + name.removeprefix("encoder.")

    def official_name(self, ours: str) -> str | None:
        """Return the official name of one of our parameters, or None if no rule knows it."""
        if ours.startswith("backbone."):
            name = super().official_name(f"encoder.{ours.removeprefix('backbone.')}")
            return None if name is None else f"backbone.{name.removeprefix('encoder.')}"
        return super().official_name(ours if ours.startswith(_ROOTS) else f"encoder.{ours}")


KEY_MAP = PrithviMap(
    renames=(*_ENCODER, *_DECODER, *(Rename(f"{h}.{{rest*}}", f"{h}.{{rest*}}") for h in _HEADS))
)


def map_for(
    encoder: Prithvi, *, holder: str, decoder: PrithviDecoder | None = None, heads: bool = False
) -> PrithviMap:
    """Return the table for a network that holds `encoder`; it also matches the bands by name.

    A checkpoint has the bands that its configuration names. Without one, six channels are taken to be the HLS
    bands, and any other number, if it is the network's, the network's. Bands that the checkpoint lacks stay
    as initialised.

    Args:
        encoder: The encoder as initialised.
        holder: See `PrithviMap`.
        decoder: The autoencoder's, whose predictions have bands too; None passes those of files over.
        heads: Whether the network has version 1's neck and heads; else any heads are passed over.
    """
    bands = encoder.bands
    first = (f"{holder}patch_embed.proj.weight", encoder.patch_embed.proj.weight, 0)
    pixels = math.prod(encoder.patch)
    last = () if decoder is None else tuple(
        (f"decoder.predict.{leaf}", tensor, pixels) for leaf, tensor in decoder.predict.named_parameters()
    )  # fmt: skip

    def usual(channels: int) -> Sequence[str]:
        return bands if channels == len(bands) != len(HLS) else HLS

    def rules(described: tuple[str, ...] | None) -> tuple[Reshape, ...]:
        names = None if described is None else _bands(described)
        return tuple(
            band_rule(name, fresh, wanted=bands, described=names, usual=usual, rows=rows)
            for name, fresh, rows in (first, *last)
        )

    unused: tuple[str, ...] = ("decoder.{rest*}",) if decoder is None else ()
    if not heads and decoder is None:
        unused += tuple(f"{head}.{{rest*}}" for head in (*_HEADS, "head", "aux_heads"))
    return PrithviMap(
        renames=KEY_MAP.renames, reshapes=rules(None), ignored=unused, holder=holder, rules=rules
    )


def _canonical(name: str) -> str:
    """Return a name as version 2 has it: unwrapped, with `encoder.` or `decoder.` in front."""
    name = name.replace("_timm_module.", "")
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    if name.startswith("backbone."):
        name = name.removeprefix("backbone.")
        return name if name.startswith("encoder.") else f"encoder.{name}"
    if name.startswith(_ROOTS):
        return name
    decoder = "decoder" in name or "_dec" in name or name == "mask_token"
    return f"decoder.{name}" if decoder else f"encoder.{name}"


# Official field, its default in the encoder's class, our argument.
_FIELDS: tuple[tuple[str, Any, str], ...] = (
    ("img_size", 224, "resolution"),
    ("num_frames", 1, "frames"),
    ("patch_size", (1, 16, 16), "patch"),
    ("embed_dim", 1024, "width"),
    ("depth", 24, "depth"),
    ("num_heads", 16, "heads"),
    ("mlp_ratio", 4.0, "mlp_ratio"),
    ("coords_encoding", (), "coordinates"),
    ("coords_scale_learn", False, "learn_scale"),
    ("drop_path", 0.0, "drop_path"),
    ("layer_norm_eps", 1e-5, "eps"),
)
_MAE_FIELDS: tuple[tuple[str, Any, str], ...] = (
    ("decoder_embed_dim", 512, "decoder_width"),
    ("decoder_depth", 8, "decoder_depth"),
    ("decoder_num_heads", 16, "decoder_heads"),
    ("mask_ratio", 0.75, "mask_ratio"),
    ("norm_pix_loss", False, "norm_pix"),
)
# Where the classes of version 2's autoencoder and of version 1 have other defaults.
_MAE_DEFAULTS = {"num_frames": 4, "embed_dim": 768, "depth": 12, "num_heads": 12}
_V1_DEFAULTS = {"num_frames": 3}
_INSIDE = ("pretrained_cfg", "model_args", "backbone")


def arguments(official: Mapping[str, Any], *, mae: bool) -> dict[str, Any]:
    """Return our constructor's arguments for an official configuration.

    Args:
        official: Fields of a config.json (version 2, the model's own under `pretrained_cfg`), of the
            configuration file of version 1 (under `model_args`), or of the class; what is not listed has the
            official default.
        mae: Whether those of the decoder are wanted too.

    Raises:
        UserError: If the number of bands and their names differ.
    """
    fields = dict(official)
    for name in _INSIDE:
        fields |= dict(fields.get(name) or {})
    first = "tubelet_size" in fields  # a field that version 1 alone has
    fields = {**(_V1_DEFAULTS if first else _MAE_DEFAULTS if mae else {}), **fields}
    result = {ours: fields.get(name, default) for name, default, ours in _FIELDS}
    patch = result["patch"]
    if isinstance(patch, int):
        patch = (int(fields.get("tubelet_size", 1)), patch, patch)
    result["patch"] = [int(side) for side in patch]
    result["coordinates"] = list(result["coordinates"] or ())
    names = list(fields.get("bands") or ())
    count = int(fields.get("in_chans", len(names) or len(HLS)))
    if not names:
        names = list(HLS) if count == len(HLS) else [f"band_{i}" for i in range(count)]
    if len(names) != count:
        raise UserError(
            f"the config's in_chans is {count}, and it names {len(names)} bands: {', '.join(names)}"
        )
    result["bands"] = list(_bands([str(name) for name in names]))
    result["statistics"] = fields.get("statistics") or _statistics(fields)
    if mae:
        result |= {ours: fields.get(name, default) for name, default, ours in _MAE_FIELDS}
    return result


def config(settings: Mapping[str, Any], *, kind: str) -> dict[str, Any]:
    """Return a full official configuration for our settings; `kind` is the network's class."""
    fields = (*_FIELDS, *_MAE_FIELDS) if kind == "PrithviMAE" else _FIELDS
    values = {name: settings[ours] for name, _, ours in fields if ours in settings}
    encoder: dict[str, Any] = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
    encoder |= {"in_chans": len(settings["bands"]), "bands": list(settings["bands"])}
    encoder["statistics"] = settings["statistics"]
    about = {"architectures": [kind], "model_type": "prithvi"}
    if kind != "PrithviSegmenter":
        return {**encoder, **about}
    head = {"num_classes": settings["classes"], "channels": settings["channels"]}
    return {
        "backbone": encoder,
        "neck": {"output_embed_dim": settings["outputs"]},
        "decode_head": {**head, "dropout_ratio": settings["dropout"]},
        **about,
    }


def segmenter_arguments(official: Mapping[str, Any]) -> dict[str, Any]:
    """Return our segmenter's arguments for the `backbone`, `neck` and `decode_head` of mmsegmentation.

    Raises:
        UserError: As for `arguments`.
    """
    backbone = arguments(official, mae=False)
    for name in ("coordinates", "learn_scale"):
        backbone.pop(name)
    head, neck = dict(official.get("decode_head") or {}), dict(official.get("neck") or {})
    return {
        **backbone,
        "classes": int(head.get("num_classes", 2)),
        "channels": int(head.get("channels", 256)),
        "dropout": float(head.get("dropout_ratio", 0.1)),
        "outputs": neck.get("output_embed_dim"),
    }


def _bands(names: Sequence[str]) -> tuple[str, ...]:
    """Return our names of an official configuration's bands, whose numbers are those of HLS L30 or S30."""
    for sensor in ("landsat", "sentinel2"):
        try:
            return tuple(canonical(name, sensor=sensor) for name in names)
        except UserError:  # a number that this sensor does not have
            continue
    return tuple(canonical(name) for name in names)


def _statistics(fields: Mapping[str, Any]) -> str:
    """Tell the version by the published means, where a configuration has them."""
    train = fields.get("train_params") or {}
    means = fields.get("mean") or (train.get("data_mean") if isinstance(train, Mapping) else None) or (0.0,)
    return "v1" if round(float(means[0])) == 775 else "v2"
