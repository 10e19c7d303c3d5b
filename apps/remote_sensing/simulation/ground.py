"""The ground of a scene: rivers and lakes, height above them, parcels, woods, towns; and what each is called.

Water comes first and the land rises from it, so that the height above the nearest water, by which floods
spread (Nobre et al. 2011, doi:10.1016/j.jhydrol.2011.03.051), is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.remote_sensing.simulation.fields import edges, field_parcels, fractal, nearest, soft_below, winding
from apps.remote_sensing.simulation.spectra import SEASONS

__all__ = ["CLASSES", "PIXEL", "Ground", "ground"]

CLASSES = ("water", "wetland", "forest", "grassland", "cropland", "bare", "built-up")
"""Land covers, in the order of the labels."""

PIXEL = 30.0
"""Side of a pixel in metres."""

Array = NDArray[np.floating[Any]]
_KINDS = tuple(SEASONS)
WATER, WETLAND, FOREST, GRASS, CROP, BARE, BUILT = range(7)


@dataclass(frozen=True)
class Ground:
    """Properties of a scene that do not change over the dates; all arrays are `(size, size)`.

    Args:
        cover: Position in `CLASSES`.
        plant: Position in `SEASONS` of what grows.
        water: Share of the pixel under permanent water.
        above: Metres above the nearest permanent water.
        height: Metres above sea, of the surface that the sun shines on.
        built: Share of roofs and streets.
        road: Share of roads, which cross water on bridges.
        roofs: Of the built share, that of roofs.
        late: Days the season is late.
        vigour: Green cover as a share of the season's.
        litter: Of what is not green, the share of straw and dry leaves.
        moist: Of bare soil, the share that is wet on a dry day.
        sandy: Of bare soil, the share of sand and rock.
        bright: Factor of the reflectance: kinds of soil and plant, shade within a canopy.
        age: Of a forest stand from 0 to 1; 0 elsewhere.
        rough: A field of mean 0 and deviation 1 from pixel to pixel.
        broad: A field of mean 0 and deviation 1 over kilometres.
    """

    cover: NDArray[np.int64]
    plant: NDArray[np.int64]
    water: Array
    above: Array
    height: Array
    built: Array
    road: Array
    roofs: Array
    late: Array
    vigour: Array
    litter: Array
    moist: Array
    sandy: Array
    bright: Array
    age: Array
    rough: Array
    broad: Array


def ground(drawn: np.random.Generator, size: int, *, dryness: float) -> Ground:
    """Return the ground of a scene.

    Args:
        drawn: Where randomness comes from.
        size: Pixels along an edge.
        dryness: 0 is humid, 1 is a semi-desert.
    """
    broad = fractal(drawn, 8, size, slope=3.4)
    rough = fractal(drawn, 2, size, slope=1.4, longest=16)
    shape = fractal(drawn, 1, size, slope=2.8, longest=24)[0]
    hills, woods, stands, wet, rocks, lakes, burnable, _ = broad
    water, distance = _waters(drawn, size, lakes)
    height, above = _relief(drawn, hills, rough[0], distance)
    steep = np.hypot(*np.gradient(height)) / PIXEL

    parcels = field_parcels(
        drawn, size, side=float(drawn.uniform(6, 13)), planned=bool(drawn.random() < 0.6), warp=broad[[1, 3]]
    )
    count = int(parcels.max()) + 1
    area = np.bincount(parcels.ravel(), minlength=count)

    def by_parcel(field: Array) -> Array:
        return (np.bincount(parcels.ravel(), weights=field.ravel(), minlength=count) / area)[parcels]

    level = hills * 0.5 + steep * 6 + 0.5 * woods
    farmed = by_parcel(level) < np.quantile(level, drawn.uniform(0.35, 0.85) - 0.2 * dryness)
    wooded = woods + 0.4 * hills > np.quantile(
        woods + 0.4 * hills, 1 - drawn.uniform(0.12, 0.5) * (1 - 0.6 * dryness)
    )
    wooded = np.where(farmed, by_parcel(wooded.astype(float)) > 0.75, wooded)
    wooded |= (distance > 0) & (distance < 2.2) & (shape > 0.4 + dryness)
    arable = drawn.random(count)[parcels] < drawn.uniform(0.5, 0.95)

    cover = np.where(farmed & arable, CROP, GRASS)
    cover[wooded] = FOREST
    barren = rocks + (1 + 6 * dryness) * (steep - 0.25).clip(0) + 0.15 * shape
    cover[(barren > 2.2 - 1.5 * dryness) & ~farmed] = BARE
    cover[(distance < 3.0) & (shape > 1.3) & (above < 1.0)] = BARE  # bars of sand and gravel
    cover[(above < drawn.uniform(0.6, 1.5)) & (wet > 0.7 * dryness - 0.1) & (cover != BARE)] = WETLAND
    built, road = _towns(drawn, size, shape, above, hedges := edges(parcels))
    cover[built > 0.4] = BUILT
    cover[water > 0.5] = WATER

    pick = drawn.random(count)[parcels]
    shares = np.cumsum(drawn.dirichlet((3.0, 3.0, 0.8)))
    crops = np.array([_KINDS.index(name) for name in ("winter_crop", "summer_crop", "fallow")])
    plant = np.full((size, size), _KINDS.index("grass"))
    plant[(cover == GRASS) & ((dryness > 0.55) | (drawn.random(count)[parcels] < 0.7 * dryness))] = (
        _KINDS.index("dry_grass")
    )
    plant = np.where(cover == CROP, crops[np.searchsorted(shares[:2], pick)], plant)
    needles = stands + 0.3 * hills > drawn.normal(0.4, 0.8)
    plant[cover == FOREST] = np.where(needles, _KINDS.index("needleleaf"), _KINDS.index("broadleaf"))[
        cover == FOREST
    ]
    plant[cover == WETLAND] = _KINDS.index("reed")

    age = np.where(cover == FOREST, np.clip(0.5 + 0.3 * stands + 0.12 * shape, 0.05, 1), 0.0)
    even = drawn.standard_normal((3, count))[:, parcels]  # what differs from parcel to parcel
    farm = cover == CROP
    vigour = np.where(farm, 0.95 + 0.05 * even[0] + 0.03 * shape, 0.88 + 0.07 * shape + 0.04 * woods)
    vigour = np.where(cover == FOREST, 0.45 + 0.55 * np.sqrt(age), vigour)
    vigour = np.where(cover == BARE, 0.12 + 0.08 * shape, vigour) * (1 - 0.25 * dryness * (cover != CROP))
    vigour = np.where(farm & hedges, vigour * 0.85, vigour)
    litter = np.where(farm, 0.25 + 0.2 * even[1], np.where(cover == BARE, 0.05, 0.65))
    texture = np.choose(cover, (0.0, 0.05, 0.09, 0.04, 0.025, 0.06, 0.14)) * rough[0]
    bright = 1 + texture + np.where(farm, 0.07 * even[2], 0.04 * wet) - 0.30 * age
    parts = dict(
        water=water, above=above, height=height, built=built, road=road,
        roofs=np.clip(0.5 + 0.3 * rough[0], 0.1, 0.9), late=np.where(farm, 6 * even[0], 3 * stands),
        vigour=vigour.clip(0.02, 1.03), litter=litter.clip(0, 0.9),
        moist=np.clip(0.35 - 0.4 * dryness + 0.15 * wet + 0.4 * np.exp(-above), 0, 0.9),
        sandy=np.where(cover == BARE, np.clip(0.55 + 0.3 * rocks, 0, 1), 0.1 + 0.2 * dryness),
        bright=bright.clip(0.4, 1.6), age=age, rough=rough[1], broad=burnable,
    )  # fmt: skip
    return Ground(
        cover=cover,
        plant=plant,
        **{name: part.astype(np.float32, copy=False) for name, part in parts.items()},
    )


def _waters(drawn: np.random.Generator, size: int, lakes: Array) -> tuple[Array, Array]:
    """Return the share of permanent water, and each pixel's distance from its bank in pixels."""
    from scipy.ndimage import distance_transform_edt

    lines = []
    river = drawn.random() < 0.8
    if river:
        heading, middle = drawn.uniform(0, 2 * np.pi), size * drawn.uniform(0.3, 0.7, 2)
        width, bend = float(np.clip(drawn.lognormal(1.4, 0.5), 1.5, 0.09 * size)), drawn.uniform(0.3, 1.45)
        length = 1.6 * size * (1 + bend**2)
        back = heading + np.pi
        start = (middle[0] + 0.85 * size * np.cos(back), middle[1] + 0.85 * size * np.sin(back))
        lines.append(winding(drawn, start=start, heading=heading, length=length, width=width, bend=bend))
        for _ in range(int(drawn.integers(0, 3))):
            rows, columns, _half = lines[0]
            seen = np.flatnonzero((rows > 0) & (rows < size) & (columns > 0) & (columns < size))
            if not len(seen):
                break
            mouth = int(drawn.choice(seen))
            side = heading + drawn.choice((-1, 1)) * drawn.uniform(1.2, 2.0)
            lines.append(winding(
                drawn, start=(rows[mouth], columns[mouth]), heading=side, taper=0.35,
                length=size * drawn.uniform(0.5, 1.2), width=width * drawn.uniform(0.25, 0.55) + 0.3,
                bend=drawn.uniform(0.3, 0.9),
            ))  # fmt: skip
    water, distance = np.zeros((size, size)), np.full((size, size), float(size))
    if lines:
        rows, columns, half = (np.concatenate(part) for part in zip(*lines, strict=True))
        away, wide = nearest((rows, columns, half), size)
        water, distance = np.clip(wide - away + 0.5, 0, 1), (away - wide).clip(0)
    if not river or drawn.random() < 0.45:
        pool = soft_below(-lakes, -np.quantile(lakes, 1 - drawn.uniform(0.005, 0.07 if not river else 0.03)))
        water = np.maximum(water, pool)
        if (pool > 0.5).any():
            distance = np.minimum(distance, distance_transform_edt(pool <= 0.5))
    return water, distance


def _relief(drawn: np.random.Generator, hills: Array, rough: Array, distance: Array) -> tuple[Array, Array]:
    """Return height and height above water in metres: a plain along the water, and hills beyond it."""
    relief = float(np.clip(drawn.lognormal(3.2, 1.0), 2, 160))
    plain = float(np.clip(drawn.lognormal(2.9, 0.5), 6, 60))
    hill = relief * np.exp(0.7 * hills) * (1 - np.exp(-((distance / plain) ** 2)))
    bank = drawn.uniform(0.2, 1.0) * (1 - np.exp(-distance / 1.5))
    swell = drawn.uniform(0.25, 0.6) * (hills + 0.35 * rough) * (1 - np.exp(-distance / 3))
    above = bank + drawn.uniform(0.006, 0.03) * distance + swell + hill
    above = np.where(distance > 0, above.clip(0.05), 0.0)
    return above + 100.0, above


def _towns(
    drawn: np.random.Generator, size: int, rough: Array, above: Array, hedges: NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Return the shares of built-up ground and of roads; roads run between towns and out of the scene."""
    down, across = np.mgrid[:size, :size].astype(np.float64)
    built, road = np.zeros((size, size)), np.zeros((size, size))
    count = int(drawn.integers(0, 7))
    centres = drawn.uniform(0, size, (count + 1, 2))
    for row, column in centres[:count]:
        radius = float(np.clip(drawn.lognormal(1.8, 0.55), 2.0, 0.16 * size))
        away = np.hypot(down - row, across - column) / radius
        built = np.maximum(built, np.clip(1.25 - away + 0.22 * rough, 0, 1))
    built = np.where(built > 0.25, np.clip(0.30 + 0.5 * built + 0.12 * rough, 0.2, 0.95), 0.0)
    built = np.where(above < 0.4, 0.0, built)
    for number in range(int(drawn.integers(0, 3)) + (count > 1)):
        row, column = centres[number % len(centres)]
        goal = centres[(number + 1) % count] if count > 1 else drawn.uniform(0, size, 2)
        angle = np.arctan2(goal[1] - column, goal[0] - row)
        away = np.abs(
            (down - row) * np.sin(angle)
            - (across - column) * np.cos(angle)
            + 1.1 * np.sin(((down - row) * np.cos(angle) + (across - column) * np.sin(angle)) / 17.0)
        )
        road = np.maximum(road, drawn.uniform(0.2, 0.45) * np.clip(1.3 - away, 0, 1))
    lanes = hedges & (drawn.random() < 0.5)
    return built, np.maximum(road * (road > 0.12), np.where(lanes & (built == 0) & (above > 0), 0.10, 0.0))
