"""Published statistics of Aurora (arXiv 2405.13063) and of the light decoders on it (arXiv 2506.19088).

Aurora's are those of microsoft/aurora (MIT), the decoders' of their authors' code; both in SI units.
"""

from __future__ import annotations

from functools import cache

from apps.weather.batch import Variables, level_name
from apps.weather.data.scaling import Scaling
from core.errors import UserError, did_you_mean, listed

__all__ = ["LEVELS", "TENTH_DEGREE", "published_scaling", "published_statistics"]

LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
"""Pressure levels in hPa that Aurora was trained on and that have statistics."""

TENTH_DEGREE = {"static_z": (-3270.407, 65403.35)}
"""What the 0.1-degree network has instead: least value and range of its own surface geopotential."""

# Name, location, scale.
_SURFACE = """
10u -0.05135059 5.547512, 10u_wave 0.290337 6.4374, 10v 0.189158 4.765339, 10v_wave 0.126789 5.40235,
2t 278.514 21.22036, dwi 0 1, gtco3 0 0.009886098, mdts 0 1, mdww 0 1, mpts 9.45161 2.18806,
mpww 4.22253 2.08384, msl 100957.8 1332.246, mwd 0 1, mwd1 0 1, mwd2 0 1, mwp 8.61902 2.13391,
mwp1 9.9143 3.25726, mwp2 8.95218 4.38825, pm1 0 1.60384e-06, pm10 0 6.662347e-06, pm2p5 0 2.33652e-06,
pp1d 10.6605 3.12242, shts 2.07783 1.05034, shww 1.17786 1.23658, swh 2.53639 1.38128,
swh1 1.79443 1.04481, swh2 0.730807 0.526008, tc_no 0 2.865418e-05, tcco 0 0.005207629,
tcno2 0 6.141358e-05, tcso2 0 0.0001574554, wind 7.58267 3.63699
"""
_STATIC = """
lsm 0 1, z -1386.496 58844.67, slt 0 7, wmb 0 1, lat_mask 0 1, static_ammonia 0 1,
static_ammonia_log 0 1, static_co 0 1, static_co_log 0 1, static_nox 0 1, static_nox_log 0 1,
static_so2 0 1, static_so2_log 0 1
"""

# Of transformed values; swvl stands for the four layers.
_DECODED = """
tp 2.2 1.94, tp_mswep 1.74 2.11, pe 0.74 2.9, e 2.77 3.33, r 0.175 0.55, swvl 0.25 0.41, swc 0.084 0.136,
tws_gou -0.25 2.67, ssr 2.8 4.24, ssrd 3.54 4.77, str -1.14 0.68, strd 6.5 2.03, tsr 4.27 5.86,
ttr -4.89 1.05, tisr 6.44 7.72, sst 287 11.6, slhf -1.37 1.64, sshf -0.25 0.93
"""
_TRANSFORMS = {
    "log_amount": ("tp", "tp_mswep", "r"),
    "evaporation": ("pe", "e"),
    "energy": ("ssr", "ssrd", "strd", "tsr", "ttr", "str", "tisr", "slhf", "sshf"),
}

_LOCATIONS = """
 hPa         z            u            v         t             q              w
  50    199373     5.653076  0.004226111  212.4864   2.67818e-06   -4.83183e-05
 100  157642.1     10.27951   0.01411897  208.4042  2.633677e-06  -1.158353e-05
 150  133141.4     13.54061  -0.03697671  213.3201  5.254625e-06   2.323354e-05
 200    115330     14.20915  -0.04507801  218.0615  1.940632e-05   2.460374e-05
 250  101223.1     13.34584  -0.02980338   222.771  5.773618e-05   3.384949e-05
 300  89414.15     11.80173   -0.0229477  228.8696  0.0001273861   0.0001310551
 400  69980.38     8.817291  -0.01771003  242.1368  0.0003855659   0.0003637421
 500  54115.37     6.563273  -0.02387986  252.9492  0.0008529599   0.0004369851
 600  40648.33     4.814521  -0.02716674  261.1347   0.001541429   0.0005889935
 700  28928.82     3.345237   0.02153583   267.401   0.002431637    0.003267191
 850  13749.78     1.418379     0.142815    274.56   0.004575618     0.01430376
 925  7015.005    0.6172657     0.205348  277.3572   0.006033134     0.02180887
1000  738.1545  -0.03328723    0.1867637   281.013   0.007030342     0.02735809
"""
_SCALES = """
 hPa         z         u         v         t             q           w
  50  5875.553  15.29281  7.058931  10.26284  3.571687e-07  0.02031102
 100   5510.64  13.52611   7.47931  12.52901  5.703754e-07  0.03982386
 150  5823.912  16.04335   9.57199  8.928709  3.794077e-06  0.07233442
 200  5820.169   17.6763  11.88069  7.189547  2.267534e-05    0.106973
 250  5536.585   17.9671  13.38039  8.529282  7.446644e-05   0.1431527
 300  5091.916  17.11917  13.34044  10.71679  0.0001684361    0.179584
 400  4150.851  14.34276  11.22955  12.69102  0.0005078644   0.2365854
 500  3353.187  11.98419  9.181708  13.06447   0.001079294   0.2639899
 600  2695.808  10.33421  7.803569  13.42046   0.001769722   0.2768904
 700  2136.436  9.168821   6.87104  14.76523   0.002549169   0.2871598
 850  1470.321  8.188043  6.264443   15.5888   0.004112368   0.2900477
 925  1228.997  7.940808  6.470644  16.08798   0.005071058   0.2518952
1000  1072.307  6.141778  5.308203  17.13983   0.005913548   0.1737641
"""
_POLLUTANT_SCALES = """
 hPa            co            no           no2           go3           so2
  50    3.3898e-08   5.58877e-10  1.184771e-09  6.646655e-06  7.246278e-12
 100  1.388527e-07  1.177009e-09  1.906433e-09  3.564464e-06  1.636122e-09
 150  2.058023e-07  1.501596e-09  2.686828e-09  1.939059e-06  3.668129e-09
 200  2.400079e-07  1.021288e-09  1.976612e-09  1.180154e-06  8.572589e-09
 250  2.535403e-07  7.026757e-10  1.646603e-09  7.915061e-07  1.255334e-08
 300  2.594617e-07  5.380344e-10  1.461818e-09  5.601596e-07  1.881883e-08
 400  2.967479e-07  4.131051e-10  1.455373e-09  2.986021e-07  4.548033e-08
 500  3.763697e-07  1.647942e-09  1.834311e-09  2.056183e-07  1.476261e-07
 600  6.095697e-07  1.724509e-08  1.515983e-08   1.70049e-07  2.777121e-07
 700  1.084358e-06  2.791792e-08  2.405975e-08  1.860511e-07   9.13161e-08
 850  3.787436e-06  1.478467e-07  9.421924e-08  2.341993e-07  5.244673e-07
 925  9.559742e-06   2.51289e-07    1.3786e-07  2.428035e-07  5.512759e-07
1000  1.811231e-05  4.063175e-07  1.931397e-07  2.332223e-07  6.046371e-07
"""


@cache
def published_statistics() -> dict[str, tuple[float, float]]:
    """Return every published location and scale by name: `2t`, `z_500`, `static_z`, `tp`."""
    statistics = {**_pairs(_DECODED), **_pairs(_SURFACE)}
    statistics |= {f"swvl{layer}": statistics["swvl"] for layer in range(1, 5)}
    statistics |= {f"static_{name}": pair for name, pair in _pairs(_STATIC).items()}
    locations = _by_level(_LOCATIONS)
    scales = {**_by_level(_SCALES), **_by_level(_POLLUTANT_SCALES)}  # pollutants are only scaled
    return statistics | {name: (locations.get(name, 0.0), scale) for name, scale in scales.items()}


def published_scaling(
    variables: Variables, overrides: dict[str, tuple[float, float]] | None = None
) -> Scaling:
    """Return the published statistics and transforms of the variables.

    Args:
        variables: Their fields: surface, atmospheric on each level, and static ones.
        overrides: Location and scale by name (of transformed values) instead of the published ones, such
            as `TENTH_DEGREE`, or of variables and levels that have none.

    Raises:
        UserError: If a variable, or a level of one, has no statistics; all are named.
    """
    table = {**published_statistics(), **(overrides or {})}
    names = (*variables.names, *(f"static_{name}" for name in variables.static))
    if missing := [name for name in names if name not in table]:
        levels = ", ".join(map(str, LEVELS))
        raise UserError(
            f"Aurora published no statistics of {listed(missing, 6)} (levels are {levels} hPa); give them by "
            f"data.statistics, as in '{{{missing[0]}: [MEAN, DEVIATION]}}'{did_you_mean(missing[0], table)}"
        )
    transforms = {
        name: key for key, skewed in _TRANSFORMS.items() for name in skewed if name in variables.surface
    }
    return Scaling({name: table[name] for name in names}, transforms)


def _pairs(table: str) -> dict[str, tuple[float, float]]:
    entries = (entry.split() for entry in table.replace("\n", " ").split(","))
    return {name: (float(location), float(scale)) for name, location, scale in entries}


def _by_level(table: str) -> dict[str, float]:
    (_, *variables), *rows = (line.split() for line in table.strip().splitlines())
    return {
        level_name(variable, float(level)): float(value)
        for level, *values in rows
        for variable, value in zip(variables, values, strict=True)
    }
