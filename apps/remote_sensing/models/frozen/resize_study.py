"""The resize study's table: which preparation each set of weights has, and the statistics of its data sets.

Corley et al. 2023 (arXiv 2305.13456). Bands stand in the order of each data set's files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from apps.remote_sensing.data.bands import SENSORS
from apps.remote_sensing.models.frozen.resizing import SECO_RGB, Preparation
from core.errors import UserError, did_you_mean

__all__ = ["DATA_SETS", "WEIGHTS", "DataSet", "preparation"]


@dataclass(frozen=True)
class DataSet:
    """Statistics of one data set of the study.

    Args:
        bands: Names, in the order of the files.
        mean: Of each band, in the files' units.
        std: As `mean`.
        divisor: What `divide` divides by: what a reflectance of 1, or white, is in these units.
        low: Smallest value of each band, where it is known.
        high: Largest value.
    """

    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    divisor: float
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


def preparation(weights: str, data: str | DataSet) -> Preparation:
    """Return how the study prepares a data set for a set of weights.

    Args:
        weights: A key of `WEIGHTS`.
        data: A key of `DATA_SETS`, or a data set's own statistics.

    Raises:
        UserError: If either is unknown.
    """
    for what, name, known in (("weights", weights, WEIGHTS), ("data set", data, DATA_SETS)):
        if isinstance(name, str) and name not in known:
            raise UserError(
                f"'{name}' is no {what} of the study ({', '.join(known)}){did_you_mean(name, known)}"
            )
    rule, found = WEIGHTS[weights], DATA_SETS[data] if isinstance(data, str) else data
    if rule.normalisation == "standardise":
        return replace(rule, mean=found.mean, std=found.std)
    return replace(rule, divisor=found.divisor) if rule.normalisation == "divide" else rule


WEIGHTS = {
    "imagenet": Preparation("standardise", size=224),
    "random": Preparation("standardise", size=224),
    "moco": Preparation("divide", size=224),
    "seco": SECO_RGB,
    "mosaiks": Preparation("standardise"),
    "image_statistics": Preparation("none"),
}
"""The best preparation of each set of weights: 224 pixels for networks, and the normalisation of their
pre-training (for ImageNet's the data's own mean and deviation). Baselines without training keep the images'
size.
"""

_SENTINEL2 = SENSORS["sentinel2"]


def _bands(names: str) -> tuple[str, ...]:
    return tuple(_SENTINEL2[name] for name in names.split())


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split())


DATA_SETS = {
    "eurosat": DataSet(
        _bands("B01 B02 B03 B04 B05 B06 B07 B08 B09 B10 B11 B12 B8A"),
        _numbers(
            "1354.40546513 1118.24399958 1042.92983953 947.62620298 1199.47283961 1999.79090914 "
            "2369.22292565 2296.82608323 732.08340178 12.11327804 1819.01027855 1118.92391149 2594.14080798"
        ),
        _numbers(
            "245.71762908 333.00778264 395.09249139 593.75055589 566.4170017 861.18399006 1086.63139075 "
            "1117.98170791 404.91978886 4.77584468 1002.58768311 761.30323499 1231.58581042"
        ),
        10000.0,
        low=_numbers("816 0 0 0 174 153 128 0 40 1 5 1 91"),
        high=_numbers("17720 28000 28000 28000 23381 27791 28001 28002 15384 183 24704 22210 28000"),
    ),
    "bigearthnet": DataSet(
        _bands("B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12"),
        _numbers(
            "340.76769064 429.9430203 614.21682446 590.23569706 950.68368468 1792.46290469 2075.46795189 "
            "2218.94553375 2266.46036911 2246.0605464 1594.42694882 1009.32729131"
        ),
        _numbers(
            "554.81258967 572.41639287 582.87945694 675.88746967 729.89827633 1096.01480586 1273.45393088 "
            "1365.45589904 1356.13789355 1302.3292881 1079.19066363 818.86747235"
        ),
        10000.0,
    ),
    "so2sat": DataSet(
        _bands("B02 B03 B04 B05 B06 B07 B08 B8A B11 B12"),
        _numbers(
            "0.12428657 0.11001677 0.10230652 0.11532196 0.15989486 0.18204406 0.17513563 0.19565547 "
            "0.15648723 0.11122536"
        ),
        _numbers(
            "0.03922695 0.04709167 0.06532641 0.06240567 0.07583675 0.08917173 0.09050922 0.09968561 "
            "0.09901879 0.08733859"
        ),
        1.0,
    ),
    "sat6": DataSet(
        ("red", "green", "blue", "nir_broad"),
        (112.3398, 114.6806, 114.1972, 107.1228),
        (54.7411, 47.8787, 37.1287, 76.6676),
        255.0,
    ),
    "treesatai": DataSet(
        _bands("B02 B03 B04 B08 B05 B06 B07 B8A B11 B12 B01 B09"),
        _numbers("237.94 384.66 253.63 2762.08 625.81 2074.90 2651.59 2923.10 1307.52 600.53 253.17 2926.37"),
        _numbers("137.15 160.50 178.53 798.61 233.08 542.36 721.98 790.64 462.27 300.09 127.59 717.24"),
        10000.0,
    ),
    "resisc45": DataSet(
        ("red", "green", "blue"),
        (93.89391792, 97.11226906, 87.56775284),
        (51.84919672, 47.2365918, 47.06308786),
        255.0,
    ),
}
"""Statistics that the study used: So2Sat's are those of its random split, in reflectance."""
