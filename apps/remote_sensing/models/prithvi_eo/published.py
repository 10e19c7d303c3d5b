"""Statistics of the data that published weights were trained on, as their configurations give them."""

from __future__ import annotations

__all__ = ["STATISTICS"]

STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "v1": (
        (
            775.2290211032589,
            1080.992780391705,
            1228.5855250417867,
            2497.2022620507532,
            2204.2139147975554,
            1610.8324823273745,
        ),
        (
            1281.526139861424,
            1270.0297974547493,
            1399.4802505642526,
            1368.3446143747644,
            1291.6764008585435,
            1154.505683480695,
        ),
    ),
    "v2": (
        (1087.0, 1342.0, 1433.0, 2734.0, 1958.0, 1363.0),
        (2248.0, 2179.0, 2178.0, 1850.0, 1242.0, 1049.0),
    ),
    "gap_filling": (
        (495.7316, 814.1386, 924.5740, 2962.5623, 2640.8833, 1740.3031),
        (286.9569, 359.3304, 576.3471, 892.2656, 945.9432, 916.1625),
    ),
}
"""Means and deviations of the six HLS bands in reflectance times 10 000, by the weights they belong to."""
