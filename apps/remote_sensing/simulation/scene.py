"""A simulated scene: images of several dates of one place and all that is known about it.

The ground (`ground.py`) is water, plants, soils and towns in shares of a pixel; a date mixes their spectra
(`spectra.py`) linearly by the season, by a flood or a fire before the last date, and by how wet the soil is;
the sky and the sensor (`sky.py`) come on top. A flood fills the ground below a stage of water as far as it is
connected with the river. Turbid and shallow water, wet soil, dark roofs, canopy shade, standing crops in the
water and shadows overlap in their spectra as they do in real images, so that single pixels do not tell all.

What it is not: there is no atmosphere but haze, no shadow cast by hills, no bidirectional reflectance, and
nothing was fitted to real scenes. Scores on it say that a program works, not how good it is on the Earth.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.remote_sensing.simulation.fields import soft_below
from apps.remote_sensing.simulation.ground import BUILT, CROP, FOREST, WETLAND, Ground, ground
from apps.remote_sensing.simulation.sky import seen, sky, sun
from apps.remote_sensing.simulation.spectra import SEASONS, SURFACES, spectra
from core.data.randomness import key

__all__ = ["NODATA", "UNKNOWN", "Landscape", "Place", "landscape"]

NODATA = -9999
UNKNOWN = 255
"""Label of a pixel about which nobody knows."""

Array = NDArray[np.floating[Any]]

_LANDS = (
    # southern, northern, western and eastern edge in degrees, and how dry it is from 0 to 1
    (41.2, 42.8, -95.5, -91.5, 0.15),  # Iowa
    (33.2, 34.8, -91.2, -89.6, 0.15),  # Mississippi
    (36.8, 38.6, -101.0, -98.0, 0.50),  # Kansas
    (-35.0, -33.2, -62.5, -60.2, 0.25),  # Pampas
    (-24.0, -22.4, -53.5, -51.0, 0.20),  # Paraná
    (47.0, 48.0, -0.4, 2.5, 0.10),  # Loire
    (41.2, 41.9, -1.8, 0.4, 0.60),  # Ebro
    (44.8, 45.4, 8.2, 11.5, 0.15),  # Po
    (51.2, 52.8, 17.2, 22.0, 0.10),  # Poland
    (48.2, 50.0, 28.5, 35.5, 0.25),  # Ukraine
    (38.2, 39.4, 31.5, 34.8, 0.65),  # Anatolia
    (51.4, 53.0, 62.5, 69.5, 0.55),  # Kazakhstan
    (25.6, 26.8, 80.5, 85.5, 0.35),  # Ganges
    (44.2, 46.0, 124.4, 127.5, 0.20),  # Manchuria
    (-28.8, -27.2, 26.4, 29.2, 0.45),  # Highveld
    (-35.2, -33.4, 143.4, 146.6, 0.70),  # Murray
)


@dataclass(frozen=True)
class Place:
    """Place of a scene on the Earth.

    Args:
        latitude: Of its centre in degrees.
        longitude: The same.
        dryness: 0 is humid, 1 is a semi-desert.
    """

    latitude: float
    longitude: float
    dryness: float

    @property
    def epsg(self) -> int:
        """Number of its UTM zone's coordinate reference system."""
        zone = int((self.longitude + 180) // 6) + 1
        return (32600 if self.latitude >= 0 else 32700) + zone


@dataclass(frozen=True)
class Landscape:
    """A scene; arrays are `(size, size)` after the axes named.

    Args:
        place: Where it lies.
        dates: Of the images.
        event: What happened before the last date: `flood`, `fire` or `nothing`.
        images: `(T, 6)` reflectance times 10,000 as int16, `NODATA` where nothing was measured.
        clouds: `(T,)` of 0 clear, 1 cloud, 2 shadow, 255 no measurement. They are in `images` if these were
            wanted with clouds; else they are those of another day.
        cover: Position in `CLASSES`; 255 where no date shows the ground.
        water: On the last date: 0 dry, 1 water, 255 unknown. Flooded crops count as water, forests that stand
            in the water and houses do not.
        changed: From the last but one date to the last: 0 same, 1 flooded or burnt, 255 unknown.
        biomass: Above the ground, in tonnes of dry matter per hectare.
    """

    place: Place
    dates: tuple[date, ...]
    event: str
    images: NDArray[np.int16]
    clouds: NDArray[np.uint8]
    cover: NDArray[np.uint8]
    water: NDArray[np.uint8]
    changed: NDArray[np.uint8]
    biomass: NDArray[np.float32]


def landscape(seed: int, number: int, *, size: int = 128, frames: int = 3, clouds: bool = True) -> Landscape:
    """Return a scene, which depends on these arguments alone.

    The ground, the dates and the clouds are the same with and without `clouds` in the images.

    Args:
        seed: Of all scenes.
        number: Which of them, from 0.
        size: Pixels along an edge.
        frames: Dates, within one growing season.
        clouds: Whether clouds, their shadows and the edge of the swath are in the images.
    """
    drawn = np.random.default_rng(key(seed, 0, number, "landscape"))
    place, dates = _when(drawn, frames)
    land = ground(drawn, size, dryness=place.dryness)
    event = str(drawn.choice(("flood", "fire", "nothing"), p=(0.65, 0.2, 0.15)))
    flooded, depth = _flood(drawn, land, stage=drawn.gamma(3.5, 0.33) if event == "flood" else 0.0)
    burnt = _fire(drawn, land) if event == "fire" else np.zeros((size, size))
    turbid = float(drawn.beta(1.5, 2.0))

    images = np.empty((frames, 6, size, size), np.int16)
    masks = np.empty((frames, size, size), np.uint8)
    for frame, day in enumerate(dates):
        own = np.random.default_rng(key(seed, frame, number, "date"))
        last = frame == frames - 1
        elevation, azimuth = sun(place.latitude, day.timetuple().tm_yday)
        overcast, fair = 0.65 * float(own.beta(1.3, 3.0)), own.random() < 0.45
        above = sky(
            own, size, cover=0.0 if clouds and fair else overcast, elevation=elevation, azimuth=azimuth
        )
        nothing = _swath(own, size)
        shares = _shares(
            land, _northern(place, day), wet=own.beta(1.2, 3.0) + 0.45 * (last and event == "flood"),
            turbid=turbid + 0.5 * last * (event == "flood") + 0.1 * own.standard_normal(),
            flooded=flooded * last, depth=depth, burnt=burnt * last,
        )  # fmt: skip
        reflectance = np.tensordot(spectra(), shares, (0, 0)) * land.bright
        masks[frame] = above.mask
        if not clouds:
            above = type(above)(np.zeros_like(above.cloud), np.zeros_like(above.shadow))
        measured = seen(own, reflectance, land.height, above, elevation=elevation, azimuth=azimuth)
        images[frame] = np.rint(np.clip(measured, 1e-4, 1.6) * 10_000)
        if clouds:
            images[frame][:, nothing], masks[frame][nothing] = NODATA, UNKNOWN

    hidden = (masks == 1) | (masks == UNKNOWN) if clouds else np.zeros_like(masks, bool)
    open_water = np.maximum(land.water, flooded * _open(land)) > 0.5
    before = land.water > 0.5
    changed = (open_water & ~before) | (burnt > 0.25)
    lost = hidden[-1] | hidden[-2] if frames > 1 else hidden[-1]

    def labelled(values: NDArray[np.generic], unknown: NDArray[np.bool_]) -> NDArray[np.uint8]:
        return np.where(unknown, UNKNOWN, values).astype(np.uint8)

    return Landscape(
        place=place, dates=dates, event=event, images=images, clouds=masks,
        cover=labelled(land.cover, hidden.all(0)), water=labelled(open_water, hidden[-1]),
        changed=labelled(changed, lost), biomass=_biomass(drawn, land),
    )  # fmt: skip


def _when(drawn: np.random.Generator, frames: int) -> tuple[Place, tuple[date, ...]]:
    south, north, west, east, dryness = _LANDS[drawn.integers(len(_LANDS))]
    place = Place(
        float(drawn.uniform(south, north)), float(drawn.uniform(west, east)),
        float(np.clip(dryness + 0.12 * drawn.standard_normal(), 0, 1)),
    )  # fmt: skip
    borders = np.linspace(85, 300, frames + 1)
    days = [int(drawn.uniform(low, high)) for low, high in zip(borders[:-1] + 1, borders[1:], strict=True)]
    shift = 0 if place.latitude >= 0 else 183
    first = date(int(drawn.integers(2018, 2025)), 1, 1)
    return place, tuple(first + timedelta(days=day + shift) for day in days)


def _northern(place: Place, day: date) -> float:
    """Return the day of the year with the same season in the north."""
    number = day.timetuple().tm_yday
    return float(number if place.latitude >= 0 else (number + 182) % 365)


def _flood(drawn: np.random.Generator, land: Ground, *, stage: float) -> tuple[Array, Array]:
    """Return the share of each pixel under flood water of a stage in metres, and the water's depth."""
    from scipy.ndimage import label

    depth = (stage - land.above).clip(0)
    if stage <= 0:
        return np.zeros_like(depth), depth
    regions, _ = label((depth > 0) | (land.water > 0.5))
    joined = np.unique(regions[land.water > 0.5])
    ponds = drawn.random(int(regions.max()) + 1)[regions] < 0.4  # rain and seepage fill some hollows too
    reached = (np.isin(regions, joined) | ponds) & (regions > 0)
    return np.where(reached, soft_below(land.above, stage), 0.0), depth


def _open(land: Ground) -> Array:
    """Return how much of a flooded pixel lies open to the sky, standing crops aside."""
    covered = np.where(land.cover == FOREST, 0.55 + 0.4 * land.age, np.where(land.cover == WETLAND, 0.3, 0.0))
    return 1 - np.maximum(covered, np.where(land.cover == BUILT, land.built, 0.0))


def _fire(drawn: np.random.Generator, land: Ground) -> Array:
    """Return how much of each pixel is charred: patches of wood and grass with islands left over."""
    fuel = np.choose(land.cover, (0.0, 0.6, 1.0, 0.9, 0.5, 0.1, 0.0))
    front = land.broad + 0.25 * land.rough
    level = np.quantile(front, 1 - drawn.uniform(0.05, 0.35))
    spread = soft_below(-front, -level, gain=0.7)
    severe = np.clip(drawn.uniform(0.55, 0.95) + 0.2 * land.rough + 0.15 * (front - level), 0, 1)
    return spread * fuel * severe * (1 - land.built)


def _shares(
    land: Ground, day: float, *, wet: float, turbid: float, flooded: Array, depth: Array, burnt: Array
) -> Array:
    """Return the share of each surface in each pixel on a day, `(surfaces, size, size)`; they sum to 1."""
    places = {name: row for row, name in enumerate(SURFACES)}
    found = np.zeros((len(places), *land.cover.shape), np.float32)
    kinds = np.stack([season.cover(day, shift=land.late) for season in SEASONS.values()])
    green = np.take_along_axis(kinds, land.plant[None], 0)[0] * land.vigour
    leaves = {
        "broadleaf": "broadleaf",
        "needleleaf": "needleleaf",
        "winter_crop": "crop",
        "summer_crop": "crop",
    }
    for kind, name in enumerate(SEASONS):
        found[places[leaves.get(name, "grass")]] += green * (land.plant == kind)
    # after the harvest straw lies on the fields until they are ploughed
    harvested = (land.cover == CROP) * np.clip((day - 178 - land.late) / 10, 0, 1) * (land.plant == 4)
    litter = np.clip(land.litter + 0.5 * harvested, 0, 0.95)
    rest = 1 - green
    found[places["straw"]] = rest * litter
    moist = np.clip(land.moist + wet, 0, 0.95)
    pool = np.where(land.cover == WETLAND, 0.35 * rest, 0.0)  # water stands between reeds
    bare = rest * (1 - litter)
    found[places["sand"]] = bare * land.sandy
    found[places["dry_soil"]] = bare * (1 - land.sandy) * (1 - moist)
    found[places["wet_soil"]] = bare * (1 - land.sandy) * moist
    found *= 1 - pool
    found[places["clear_water"]] += pool

    town = land.built * (land.cover == BUILT)
    found *= 1 - town
    found[places["roofs"]] += town * land.roofs
    found[places["asphalt"]] += town * (1 - land.roofs)
    found *= 1 - burnt
    found[places["char"]] += burnt

    standing = np.where(land.cover == CROP, 0.65 * green, 0.0)
    water = np.maximum(land.water, flooded * _open(land) * (1 - standing))
    murk = np.clip(turbid + 0.15 * land.rough, 0.02, 1)
    bottom = np.where(
        land.water > 0.5, 0.0, 0.6 * np.exp(-depth / 0.15)
    )  # shallow water shows what lies below
    found *= 1 - water
    found[places["wet_soil"]] += water * bottom
    found[places["turbid_water"]] += water * (1 - bottom) * murk
    found[places["clear_water"]] += water * (1 - bottom) * (1 - murk)
    found *= 1 - land.road
    found[places["asphalt"]] += land.road
    return found


def _swath(drawn: np.random.Generator, size: int) -> NDArray[np.bool_]:
    """Return which pixels lie beyond the edge of the swath: a corner of one date in eight."""
    down, across = np.mgrid[:size, :size] / size
    angle, reach = drawn.uniform(0, 2 * np.pi), drawn.uniform(0.2, 0.6)
    beyond = (down - 0.5) * np.cos(angle) + (across - 0.5) * np.sin(angle) > reach
    return beyond & (drawn.random() < 0.125)


def _biomass(drawn: np.random.Generator, land: Ground) -> NDArray[np.float32]:
    """Return tonnes per hectare: forests by the age of their stands, little else; measured with an error."""
    most = np.choose(land.cover, (0.0, 12.0, 0.0, 6.0, 8.0, 1.5, 3.0)) * land.vigour
    tonnes = most + 280 * land.age**1.3 * (land.cover == FOREST)
    error = np.exp(0.08 * drawn.standard_normal(tonnes.shape) - 0.0032)
    return (tonnes * error).astype(np.float32)
