"""Prithvi: the recorded cases, its sizes, its official layouts, bands, dates, places and other grids."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from apps.remote_sensing.models import prithvi
from apps.remote_sensing.models.prithvi import KEY_MAP, key_maps
from apps.remote_sensing.models.prithvi_eo import official
from apps.remote_sensing.parity import CASES
from core.parity import run_case


@pytest.mark.parametrize("case", ["v1_encoder_neck", "v1_gapfill", "v1_mae", "v2_tl_mae"])
def test_the_recorded_case_is_reproduced(shared, case):
    report = run_case(shared / "parity" / "prithvi" / f"{case}.json", known=CASES)

    assert [check.name for check in report.checks if not check.passed] == []
    assert any(check.name.startswith("grad/") for check in report.checks)


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("prithvi_tiny", 3_553_280),
        ("prithvi_v1_100m", 86_237_184),
        ("prithvi_gap_filling", 112_639_488),
        ("prithvi_v2_tiny_tl", 5_634_048),
        ("prithvi_v2_100m_tl", 86_237_184),
        ("prithvi_v2_300m", 303_886_336),
        ("prithvi_v2_300m_tl", 303_886_338),
        ("prithvi_v2_600m", 631_188_480),
        ("prithvi_v2_600m_tl", 631_188_482),
        ("prithvi_v1_100m_mae", 112_639_488),
        ("prithvi_v2_300m_tl_mae", 330_419_716),
        ("prithvi_v2_600m_tl_mae", 657_668_252),
    ],
)
def test_sizes_have_their_number_of_parameters(size, parameters):
    with torch.device("meta"):
        network = getattr(prithvi, size)()

    assert sum(p.numel() for p in network.parameters()) == parameters


def shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in KEY_MAP.to_official(network.state_dict()).items()}


def test_official_names_and_shapes_are_those_of_the_files():
    with torch.device("meta"):
        first = shapes(prithvi.prithvi_v1_100m_mae())
        large = shapes(prithvi.prithvi_v2_600m_tl_mae())
        plain = shapes(prithvi.prithvi_v2_300m())

    assert first["encoder.pos_embed"] == (1, 589, 768)
    assert first["encoder.patch_embed.proj.weight"] == (768, 6, 1, 16, 16)
    assert not [name for name in first if "_embed_enc" in name or "_embed_dec" in name]
    assert large["encoder.pos_embed"] == (1, 1025, 1280)
    assert large["decoder.decoder_pred.weight"] == (1176, 512)
    assert large["decoder.decoder_blocks.7.mlp.fc2.weight"] == (512, 2048)
    assert large["encoder.temporal_embed_enc.scale"] == large["decoder.location_embed_dec.scale"] == (1,)
    assert plain["encoder.blocks.23.attn.qkv.weight"] == (3072, 1024)
    assert plain["encoder.pos_embed"] == (1, 785, 1024)


def test_a_case_of_gaps_in_one_frame_without_an_axis_of_time_runs(tmp_path):
    config = {"img_size": 16, "patch_size": 4, "num_frames": 1, "tubelet_size": 1, "in_chans": 6}
    config |= {"embed_dim": 32, "depth": 1, "num_heads": 2}
    config |= {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
    network = prithvi.PrithviMAE(**official.arguments({"layer_norm_eps": 1e-6, **config}, mae=True))
    x, cloud = torch.randn(2, 6, 16, 16), torch.zeros(2, 6, 16, 16)
    cloud[:, :, :6] = 1
    with torch.no_grad():
        out = network(x[:, :, None], gaps=cloud[:, :, None], count_in_first=True)
        image = network.image(out.prediction, out.grid)[:, :, 0]
    state = key_maps(network)[0].to_official(network.state_dict())
    tensors = {f"state/{name}": tensor for name, tensor in state.items()}
    tensors |= {"input/x": x, "input/cloud": cloud, "output/pred_image": image, "loss/loss": out.loss[None]}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "a.safetensors")
    head = {"format": "parity-1", "system": "prithvi", "kind": "gap_filling", "case": "a", "tolerance": {}}
    (tmp_path / "a.json").write_text(json.dumps({**head, "config": config, "layer_norm_eps": 1e-6}))

    report = run_case(tmp_path / "a.json")

    assert [check.name for check in report.checks if not check.passed] == []
    assert len(report.checks) == 2
