"""Samples a second of the GeoTIFF pipeline here against those of TorchGeo and TerraTorch on the same files.

Files are written to a temporary folder: chips of 512 pixels in the layout of Sen1Floods11 (13 bands, int16,
as published: tiles of 256 pixels, DEFLATE, bands of a pixel side by side) and large scenes of six bands
(band after band, or like the chips with `--interleave pixel`). Their numbers are smooth fields with the noise
of a sensor, so that they shrink as satellite images do. Three comparisons, each with and without loader
processes, all of random windows of 224 pixels, mirrored and normalised, six bands and the label:

- *chips, TerraTorch*: its data module of Sen1Floods11 (a TorchGeo `NonGeoDataModule`) with albumentations;
- *chips, TorchGeo*: `RasterDataset` of images and of labels, intersected, and a random sampler;
- *scenes, TorchGeo*: the same on the large scenes.

Before anything is timed both sides must give the same pixels for the same windows. Sides take turns; a round
begins once as many batches have come as loader processes prefetch, so starting them is not counted, and ends
with the last batch, normalised on either side. The files are in the page cache. TorchGeo keeps up to 128
files open, and both keep decoded tiles in GDAL's cache, with one or two loader processes 5 % of the memory in
each, or `--cache MIB` for both: data sets of a usual size do not fit into it, as these files do by default.

    .ci/peer terratorch
    PYTHONPATH=. .bench/terratorch/bin/python tests/benchmarks/scene_loading.py [--only scenes] [--workers 2]

Without the peer, `--alone` times ours only. Run it on a quiet machine. A ratio above 1 means ours is faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from measure import SIDES, machine
from scene_files import SIX, RasterFiles, write_chips, write_scenes
from torch import Tensor

CROP = 224
COMPARISONS = ("chips-terratorch", "chips", "scenes")
Run = Callable[[], float]


def main() -> int:
    """Write the files and run the comparisons."""
    parser = argparse.ArgumentParser(description="Loading here against that of TorchGeo and TerraTorch.")
    parser.add_argument("--only", choices=COMPARISONS, help="one comparison only")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2], help="loader processes")
    parser.add_argument("--chips", type=int, default=64)
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--side", type=int, default=4096, help="pixels of a scene's side")
    parser.add_argument("--compress", choices=("deflate", "none"), default="deflate")
    parser.add_argument("--interleave", choices=("band", "pixel"), default="band", help="of the scenes")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--samples", type=int, default=256, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sampler", choices=("random", "batch"), default="random", help="of TorchGeo")
    parser.add_argument("--cache", type=int, help="MiB of decoded tiles in each process")
    parser.add_argument("--alone", action="store_true", help="ours only, where the peer is not installed")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.cache is not None:
        os.environ["GDAL_CACHEMAX"] = str(options.cache)
    print(f"{machine()}; files in the page cache; {options.compress}, scenes by {options.interleave}")
    with tempfile.TemporaryDirectory() as folder:
        for name in COMPARISONS:
            if options.only in (None, name):
                compare(name, Path(folder), options)
    return 0


def compare(name: str, folder: Path, options: argparse.Namespace) -> None:
    """Run one comparison with each number of loader processes."""
    kind = "scenes" if name == "scenes" else "chips"
    root = folder / kind
    if not root.is_dir():
        (write_scenes if kind == "scenes" else write_chips)(root, options)
    for workers in options.workers:
        runs: dict[str, Run] = {"ours": rate_of(ours(kind, root, workers, options), options, workers)}
        if not options.alone:
            # One of its own for the check: processes that are forked later may not share its open files.
            agree(name, root, reference(name, root, workers, options), options)
            module = reference(name, root, workers, options)
            runs["reference"] = rate_of(normalised(module), options, workers)
        report(f"{name}, {workers} loader processes", in_turn(runs, options.rounds))


def report(what: str, rates: dict[str, list[float]]) -> None:
    """Print medians of samples a second, and the ratio of each round with its range."""
    told = [f"{side} {statistics.median(rates[side]):.1f}" for side in SIDES if side in rates]
    line = f"  {what}: {', '.join(told)} samples/s"
    if len(rates) > 1:
        ratios = sorted(a / b for a, b in zip(rates["ours"], rates["reference"], strict=True))
        line += f", ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    print(line, flush=True)


def in_turn(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Return samples a second of each round; the first, for caches and processes, is left out."""
    rates: dict[str, list[float]] = {side: [] for side in runs}
    for turn in range(rounds + 1):
        for side in runs if turn % 2 == 0 else reversed(runs):
            rate = runs[side]()
            if turn:
                rates[side].append(rate)
    return rates


def rate_of(epoch: Callable[[], Iterable[Tensor]], options: argparse.Namespace, workers: int) -> Run:
    """Return a measure of samples a second, from when what was prefetched at the start has come."""
    early = max(1, 2 * workers)

    def run() -> float:
        start, count = 0.0, 0
        for number, image in enumerate(epoch(), 1):
            if image.shape != (options.batch, len(SIX), CROP, CROP) or image.dtype != torch.float32:
                raise SystemExit(f"a batch of {tuple(image.shape)} {image.dtype} was not expected")
            count += options.batch if number > early else 0
            if number == early:
                start = time.perf_counter()
        return count / (time.perf_counter() - start)

    return run


# --- ours ---


def ours(kind: str, root: Path, workers: int, options: argparse.Namespace) -> Callable[[], Iterator[Tensor]]:
    """Return epochs of the data module here."""
    loader = scenes_of(kind, root, workers, options).train_dataloader()

    def epoch() -> Iterator[Tensor]:
        for batch in loader:
            yield batch.image[:, :, 0]

    return epoch


def scenes_of(kind: str, root: Path, workers: int, options: argparse.Namespace) -> Any:
    """Return the data module here."""
    from apps.remote_sensing.data import Augment, Normalise
    from apps.remote_sensing.data.module import Scenes
    from apps.remote_sensing.data.readers.floods import Sen1Floods11

    count = options.chips if kind == "chips" else options.scenes
    return Scenes(
        Sen1Floods11(str(root)) if kind == "chips" else scene_reader(root),
        bands=list(SIX),
        normalise="auto" if kind == "chips" else Normalise(mean=[0.15] * len(SIX), std=[0.1] * len(SIX)),
        crop=CROP,
        augment=Augment(flips=True),
        repeats=options.samples // count,
        batch_size=options.batch,
        num_workers=workers,
        drop_last=True,
    )


def scene_reader(root: Path) -> Any:
    """Return the reader of the large scenes."""
    from apps.remote_sensing.data.readers.folders import GeoTiffFolder

    return GeoTiffFolder(str(root), bands=SIX, classes=("dry", "water"), fractions=(1, 0, 0), scale=1e-4)


# --- the references ---


def reference(name: str, root: Path, workers: int, options: argparse.Namespace) -> Any:
    """Return the data module that a comparison is with."""
    if name == "chips-terratorch":
        return terratorch(root, workers, options)
    return torchgeo(name, root, workers, options)


def terratorch(root: Path, workers: int, options: argparse.Namespace) -> Any:
    """Return TerraTorch's data module of the chips."""
    import albumentations as A
    from albumentations.pytorch import ToTensorV2
    from terratorch.datamodules import Sen1Floods11NonGeoDataModule

    module = Sen1Floods11NonGeoDataModule(
        str(root),
        batch_size=options.batch,
        num_workers=workers,
        bands=[name.upper() for name in SIX],
        train_transform=[
            A.RandomCrop(CROP, CROP),
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            ToTensorV2(),
        ],
    )
    module.setup("fit")
    repeats = options.samples // len(module.train_dataset)
    module.train_dataset = torch.utils.data.ConcatDataset([module.train_dataset] * repeats)
    return module


def torchgeo(kind: str, root: Path, workers: int, options: argparse.Namespace) -> Any:
    """Return a data module of TorchGeo over the files of images and of labels."""
    import kornia.augmentation as K
    from torchgeo.datamodules import GeoDataModule
    from torchgeo.datasets import RasterDataset
    from torchgeo.samplers import RandomBatchGeoSampler, RandomGeoSampler

    images = RasterFiles(kind)
    places = images.folders(root)
    mean, std = constants(kind)

    class Images(RasterDataset):
        filename_glob = "*.tif"
        all_bands = images.bands

    class Labels(RasterDataset):
        filename_glob = "*.tif"
        is_image = False

    class Module(GeoDataModule):
        def setup(self, stage: str) -> None:
            self.train_dataset = Images(places[0], bands=SIX) & Labels(places[1])
            sampled = (self.train_dataset, CROP)
            if options.sampler == "batch":
                self.train_batch_sampler = RandomBatchGeoSampler(*sampled, options.batch, options.samples)
            else:
                self.train_sampler = RandomGeoSampler(*sampled, length=options.samples)

    module = Module(RasterDataset, batch_size=options.batch, patch_size=CROP, num_workers=workers)
    module.aug = K.AugmentationSequential(
        K.Normalize(mean=[value * 1e4 for value in mean], std=[value * 1e4 for value in std]),
        K.RandomHorizontalFlip(p=0.5),
        K.RandomVerticalFlip(p=0.5),
        data_keys=None,
        keepdim=True,
    )
    module.setup("fit")
    return module


def constants(kind: str) -> tuple[list[float], list[float]]:
    """Return mean and deviation of the six bands as ours has them, in reflectance."""
    from apps.remote_sensing.data.readers.floods import Sen1Floods11

    if kind == "scenes":
        return [0.15] * len(SIX), [0.1] * len(SIX)
    reader = Sen1Floods11("unused")
    return [reader.mean[name] for name in SIX], [reader.std[name] for name in SIX]


def normalised(module: Any) -> Callable[[], Iterator[Tensor]]:
    """Return epochs of the reference: its loader, then what its module does to a batch on the device."""
    loader = module.train_dataloader()

    def epoch() -> Iterator[Tensor]:
        for batch in loader:
            both = {"image": batch["image"], "mask": batch["mask"].unsqueeze(1)}
            yield module.aug(both)["image"]

    return epoch


# --- that both give the same ---


def agree(name: str, root: Path, module: Any, options: argparse.Namespace) -> None:
    """Stop unless both give the same normalised pixels and labels for the same windows."""
    import kornia.augmentation as K

    kind = "scenes" if name == "scenes" else "chips"
    scenes = scenes_of(kind, root, 0, options)
    scenes.crop, scenes.flips = None, False
    dataset = scenes.train_set()
    steps = module.aug if name == "chips-terratorch" else K.AugmentationSequential(
        module.aug[0], data_keys=None, keepdim=True
    )  # fmt: skip
    if name == "chips-terratorch":
        part = module.train_dataset.datasets[0]
        crops, part.transform = part.transform, type(module)(str(root)).train_transform
        row = [Path(path).stem for path in part.image_files]
    for number in range(3):
        if name == "chips-terratorch":
            from terratorch.datasets.utils import default_transform

            part.transform = default_transform
            sample = part[number]
            index = next(
                i for i, (scene, _) in enumerate(dataset.samples) if scene.files[0].stem == row[number]
            )
            one = dataset[(0, index)]
            image, label = one.image[:, 0], one.label
            part.transform = crops
        else:
            query = next(iter(module.train_sampler or (q for qs in module.train_batch_sampler for q in qs)))
            sample = module.train_dataset[query]
            image, label = window_of(dataset, query)
        made = steps({"image": sample["image"][None], "mask": sample["mask"][None, None]})
        gap = float((made["image"][0] - image).abs().max())
        if gap > 1e-4 or not torch.equal(sample["mask"].long(), label):
            raise SystemExit(f"{name}: the sides differ by {gap} for the same window; nothing was timed")


def window_of(dataset: Any, query: tuple[slice, ...]) -> tuple[Tensor, Tensor]:
    """Return our normalised pixels and label of a place that TorchGeo's sampler drew."""
    from apps.remote_sensing.data.samples import SceneSet

    for scene, _ in dataset.samples:
        header = dataset.source.header(scene.files[0])
        a, _, west, _, e, north = header.transform
        left, top = (query[0].start - west) / a, (query[1].stop - north) / e
        if 0 <= round(left) <= header.width - CROP and 0 <= round(top) <= header.height - CROP:
            place = (round(top), round(left), CROP, CROP)
            one = SceneSet(dataset.source, [(scene, place)], dataset.style, training=False)[(0, 0)]
            return one.image[:, 0], one.label
    raise SystemExit(f"no file holds {query}; nothing was timed")


if __name__ == "__main__":
    sys.exit(main())
