"""Preparation of images: sizes and numbers bound to weights, and bands by name."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.remote_sensing.data.bands import SENSORS
from apps.remote_sensing.models.frozen.resizing import (
    SECO_RGB,
    Preparation,
    arranged,
    centre_crop,
    preparation_for,
    resize,
)
from apps.remote_sensing.models.softcon import SoftConResNet50, SoftConViT
from core.errors import UserError


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(2, 12))
def test_the_shorter_side_gets_the_size_and_corners_stay_corners(height, width, size):
    x = torch.rand(1, 2, height, width)

    y = resize(x, size)

    assert min(y.shape[-2:]) == size
    assert max(y.shape[-2:]) == int(size * max(height, width) / min(height, width))
    assert torch.allclose(y[..., [0, 0, -1, -1], [0, -1, 0, -1]], x[..., [0, 0, -1, -1], [0, -1, 0, -1]])
    assert float(y.min()) >= float(x.min()) - 1e-6
    assert float(y.max()) <= float(x.max()) + 1e-6


def test_an_image_of_the_size_stays_as_it_is_and_a_series_is_resized_frame_by_frame():
    x = torch.rand(2, 3, 4, 5, 5)

    assert torch.equal(resize(x, 5), x)
    assert torch.allclose(resize(x, (7, 9))[:, :, 1], resize(x[:, :, 1], (7, 9)))


def test_eight_bits_are_cut_off_not_rounded():
    bits = Preparation("eight_bit", mean=(100.0,), std=(50.0,))
    x = torch.tensor([-50.0, 0.0, 0.7, 0.79, 100.0, 200.0, 900.0]).view(1, 1, 1, 7)

    expected = torch.tensor([0.0, 0.0, 0.0, 1.0, 127.0, 255.0, 255.0]) / 255

    assert torch.equal(bits(x).flatten(), expected)


def test_normalisations_are_their_formulas():
    x = 3000 * torch.rand(2, 3, 4, 4)
    along = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    low, high = (0.0, 10.0, 20.0), (100.0, 110.0, 120.0)

    assert torch.equal(Preparation("none")(x), x)
    assert torch.equal(Preparation("divide", divisor=10000)(x), x / 10000)
    assert torch.equal(Preparation("clip", divisor=2750)(x), (x / 2750).clamp(0, 1))
    assert torch.equal(Preparation("standardise", mean=(1, 2, 3), std=(1, 2, 3))(x), (x - along) / along)
    assert torch.allclose(Preparation("min_max", low=low, high=high)(x)[:, 1], (x[:, 1] - 10) / 100)
    assert Preparation("divide", divisor=2.0)(torch.full((1, 1, 2, 2), 3)).flatten().tolist() == [1.5] * 4


def test_size_comes_before_or_after_the_numbers_as_asked():
    x = 255 * torch.rand(1, 3, 6, 6)
    after = Preparation("stretch", size=9, resize_first=False, **_stretch())

    assert torch.allclose(after(x), resize(SECO_RGB.normalise(x), 9))
    assert SECO_RGB(x).shape == (1, 3, 224, 224)
    assert Preparation(size=8, crop=4)(x).shape == (1, 3, 4, 4)
    assert torch.equal(centre_crop(x, 4), x[..., 1:5, 1:5])


def test_a_network_says_how_its_images_are_prepared():
    vit = SoftConViT(("VV", "VH"), width=24, depth=1, heads=2, image=28)
    resnet = SoftConResNet50(13)

    found = preparation_for(vit)

    assert (found.normalisation, found.size, found.mean) == ("eight_bit", 28, (-12.59, -20.26))
    assert preparation_for(resnet, size=(64, 32))(torch.rand(1, 13, 8, 8)).shape == (1, 13, 64, 32)
    assert preparation_for(resnet).size == 224
    with pytest.raises(UserError, match="does not say"):
        preparation_for(torch.nn.Linear(1, 1))


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(5)), st.sets(st.integers(0, 4), min_size=1))
def test_bands_are_arranged_by_name_and_missing_ones_are_zeros(order, there):
    names = [f"b{i}" for i in order]
    given_bands = sorted(f"b{i}" for i in there)
    x = torch.stack([torch.full((2, 3), float(name[1]) + 1) for name in given_bands])[None]

    y = arranged(x, given=given_bands, wanted=names)

    assert y[0, :, 0, 0].tolist() == [i + 1.0 if i in there else 0.0 for i in order]


def test_a_real_patch_without_cirrus_becomes_what_softcon_sees(shared):
    rasterio = pytest.importorskip("rasterio")
    name = "S2A_MSIL2A_20170613T101031_87_48"
    folder = shared / "data/remote_sensing/bigearthnet/BigEarthNet-S2-Example" / name
    numbers = [band for band in SENSORS["sentinel2"] if band != "B10"]
    there = [SENSORS["sentinel2"][band] for band in numbers]
    bands = []
    for number in numbers:
        with rasterio.open(folder / f"{name}_{number}.tif") as file:
            bands.append(resize(torch.from_numpy(file.read().astype("float32"))[None], (120, 120)))
    network = SoftConViT(width=24, depth=1, heads=2, image=28).eval()

    scene = arranged(torch.cat(bands, dim=1), given=there, wanted=network.bands)
    prepared = preparation_for(network)(scene)

    assert float(scene[0, 1].mean()) == pytest.approx(619.5567, abs=1e-3)
    assert int(scene[0, 10].count_nonzero()) == 0
    assert prepared.shape == (1, 13, 28, 28)
    assert torch.equal(prepared * 255, (prepared * 255).round())
    assert torch.isfinite(network(prepared)).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Preparation("standardize"), "did you mean 'standardise'"),
        (lambda: Preparation("standardise", mean=(0,), std=(0,)), "every std must be above 0"),
        (lambda: Preparation("min_max", low=(1,), high=(1,)), "high must be above low"),
        (
            lambda: Preparation("standardise", mean=(0,), std=(1,))(torch.zeros(1, 2, 3, 3)),
            "one for each band",
        ),
        (lambda: resize(torch.zeros(1, 1, 2, 2), 0), "at least one pixel"),
        (lambda: centre_crop(torch.zeros(1, 1, 2, 2), 3), "cannot be cut"),
        (lambda: arranged(torch.zeros(1, 1, 2, 2), given=["a", "b"], wanted=["a"]), "there are 1"),
        (lambda: arranged(torch.zeros(1, 1, 2, 2), given=["a"], wanted=["b"]), "name them alike"),
    ],
)
def test_what_cannot_be_prepared_is_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        wrong()


def _stretch() -> dict[str, tuple[float, ...]]:
    return {name: getattr(SECO_RGB, name) for name in ("low", "high", "mean", "std")}
