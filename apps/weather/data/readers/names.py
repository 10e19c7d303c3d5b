"""One table of names for every layout: ours (Aurora's), WeatherBench 2, netCDF, GRIB and CF; units."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from core.errors import did_you_mean

__all__ = ["StoredName", "conversion", "in_order", "near_names", "published_name", "recognised", "unit_of"]

# Kind (sum: over the hours before its time), SI unit, then variables: our name and those of others.
_TABLE = """
surface K 2t,t2m,2m_temperature,tas 2d,d2m,2m_dewpoint_temperature,tdps skt,skin_temperature
    sst,sea_surface_temperature,tos stl1,soil_temperature_level_1
surface m/s 10u,u10,10m_u_component_of_wind,uas 10v,v10,10m_v_component_of_wind,vas
    100u,u100,100m_u_component_of_wind 100v,v100,100m_v_component_of_wind 10si,si10,10m_wind_speed,sfcwind
    10fg,fg10,i10fg,10m_wind_gust_since_previous_post_processing
surface Pa msl,mean_sea_level_pressure,psl,prmsl,air_pressure_at_mean_sea_level
    sp,surface_pressure,ps,surface_air_pressure
surface 1 ci,sea_ice_cover,siconc,sic,sea_ice_area_fraction tcc,total_cloud_cover,clt lcc,low_cloud_cover
    mcc,medium_cloud_cover hcc,high_cloud_cover
surface m sd,snow_depth swc,soil_water_content blh,boundary_layer_height
surface m3/m3 swvl1,volumetric_soil_water_layer_1 swvl2,volumetric_soil_water_layer_2
    swvl3,volumetric_soil_water_layer_3 swvl4,volumetric_soil_water_layer_4
surface kg/m2 tcw,total_column_water tcwv,total_column_water_vapour,prw tcco,total_column_carbon_monoxide
    tc_no,tcno,total_column_nitrogen_monoxide tcno2,total_column_nitrogen_dioxide
    tcso2,total_column_sulphur_dioxide gtco3,total_column_ozone
surface J/kg cape,convective_available_potential_energy
sum m tp,total_precipitation,precipitation_amount,pr tp_mswep lsp,large_scale_precipitation
    cp,convective_precipitation sf,snowfall e,evaporation pe,pev,potential_evaporation r,ro,runoff
sum J/m2 ssr,surface_net_solar_radiation ssrd,surface_solar_radiation_downwards
    str,surface_net_thermal_radiation strd,surface_thermal_radiation_downwards tsr,top_net_solar_radiation
    ttr,top_net_thermal_radiation tisr,toa_incident_solar_radiation slhf,surface_latent_heat_flux
    sshf,surface_sensible_heat_flux
level m2/s2 z,geopotential,gh,zg,geopotential_height,hgt
level K t,temperature,ta,air_temperature
level m/s u,u_component_of_wind,ua,eastward_wind v,v_component_of_wind,va,northward_wind
level Pa/s w,vertical_velocity,wap,omega,lagrangian_tendency_of_air_pressure
level kg/kg q,specific_humidity,hus clwc,specific_cloud_liquid_water_content
    ciwc,specific_cloud_ice_water_content o3,ozone_mass_mixing_ratio co,carbon_monoxide no,nitrogen_monoxide
    no2,nitrogen_dioxide so2,sulphur_dioxide go3,ozone
level % r,relative_humidity,hur
level 1/s d,divergence vo,vorticity
level K.m2/kg/s pv,potential_vorticity
level 1 cc,fraction_of_cloud_cover
surface kg/m3 pm1,particulate_matter_1um pm2p5,particulate_matter_2.5um pm10,particulate_matter_10um
wave m swh,significant_height_of_combined_wind_waves_and_swell shww,significant_height_of_wind_waves
    shts,significant_height_of_total_swell swh1,p140121,significant_wave_height_of_first_swell_partition
    swh2,p140124,significant_wave_height_of_second_swell_partition
wave degree mwd,mean_wave_direction mdww,mean_direction_of_wind_waves mdts,mean_direction_of_total_swell
    mwd1,p140122,mean_wave_direction_of_first_swell_partition
    mwd2,p140125,mean_wave_direction_of_second_swell_partition dwi,p140249
wave s mwp,mean_wave_period pp1d,peak_wave_period mpww,mean_period_of_wind_waves
    mpts,mean_period_of_total_swell mwp1,p140123,mean_wave_period_of_first_swell_partition
    mwp2,p140126,mean_wave_period_of_second_swell_partition
wave m/s wind,p140245
static 1 lsm,land_sea_mask,sftlf,land_binary_mask,land_area_fraction lat_mask static_ammonia
    static_ammonia_log static_co static_co_log static_nox static_nox_log static_so2 static_so2_log
static m2/s2 z,geopotential,geopotential_at_surface,orog,orography,surface_altitude
static code slt,soil_type
static m sdor,standard_deviation_of_orography wmb,model_bathymetry
"""
_GRAVITY = 9.80665  # m/s2, of geopotential heights
# SI unit to spellings (see `conversion`), and what values in that unit are multiplied with; K adds as well.
_UNITS: dict[str, dict[str, float]] = {
    "K": {"k kelvin kelvins degk degc celsius c °c degcelsius": 1, "degf fahrenheit f °f": 5 / 9},
    "Pa": {"pa pascal pascals": 1, "hpa mb mbar millibar millibars hectopascal": 100, "kpa": 1000},
    "m2/s2": {"m2.s-2 j.kg-1": 1, "m gpm metre meter metres meters geopotential.meter": _GRAVITY,
              "dam gpdm": 10 * _GRAVITY},
    "m": {"m metre meter metres meters m.of.water.equivalent m.of.water": 1, "cm": 0.01,
          "mm kg.m-2 mm.of.water.equivalent": 1e-3},
    "1": {"1 0-1 fraction proportion dimensionless ~ none": 1, "% percent": 0.01},
    "%": {"% percent": 1, "1 0-1 fraction": 100},
    "m/s": {"m.s-1 metre.s-1 meter.s-1": 1, "km.h-1 km.hour-1": 1 / 3.6, "kt knot knots": 1852 / 3600},
    "kg/kg": {"kg.kg-1 1": 1, "g.kg-1": 1e-3, "mg.kg-1": 1e-6},
    "Pa/s": {"pa.s-1": 1, "hpa.s-1": 100},
    "m3/m3": {"m3.m-3 1": 1, "% percent": 0.01},
    "J/m2": {"j.m-2 w.s.m-2": 1, "kj.m-2": 1e3, "mj.m-2": 1e6},
    "J/kg": {"j.kg-1": 1}, "kg/m2": {"kg.m-2 mm": 1}, "1/s": {"s-1": 1}, "s": {"s second seconds": 1},
    "kg/m3": {"kg.m-3": 1, "g.m-3": 1e-3, "µg.m-3 ug.m-3": 1e-9},
    "degree": {"degree degrees degree.true degrees.true deg": 1},
    "K.m2/kg/s": {"k.m2.kg-1.s-1": 1},
}  # fmt: skip
_FIRST = ("2t", "10u", "10v", "msl", "lsm", "z", "slt", "u", "v", "t", "q")  # Aurora's order
_VANISHING = ("tcc", "lcc", "mcc", "hcc", "ci", "sd", "cc", "cape")


@dataclass(frozen=True)
class StoredName:
    """A variable as the table knows it."""

    name: str  # ours
    kind: str  # surface, sum, wave, level or static
    unit: str  # SI
    hours: float = 0.0  # of a sum, where the stored name says it: total_precipitation_6hr
    level: float = 0.0  # in hPa, where the stored name says it: geopotential_500

    @property
    def may_vanish(self) -> bool:
        """Whether it may be zero everywhere, as rain: writers may have left out such a chunk."""
        return self.kind in ("sum", "static") or self.name in _VANISHING


@lru_cache(maxsize=1)
def _table() -> dict[tuple[str, bool], StoredName]:
    """Return the rows by name and by whether the variable lies on levels."""
    rows: dict[tuple[str, bool], StoredName] = {}
    for line in re.sub(r"\n +", " ", _TABLE.strip()).splitlines():
        kind, unit, *variables = line.split()
        for names in variables:
            row = StoredName(names.split(",")[0], kind, unit)
            for name in names.split(","):
                rows.setdefault((name, kind == "level"), row)
    return rows


def recognised(stored: str, attributes: Mapping[str, object], *, levelled: bool) -> StoredName | None:
    """Return the row of a stored variable: by its name, else by what its attributes call it; or None."""
    tags = [attributes.get(key) for key in ("GRIB_shortName", "GRIB_cfVarName", "standard_name")]
    for tag in (stored, *tags):
        word = str(tag).lower()
        if (word, levelled) in _table():
            return _table()[word, levelled]
        hours = re.fullmatch(r"(.+)_(\d+)hr", word)
        if hours and (row := _table().get((hours[1], False))) and row.kind == "sum":
            return replace(row, hours=float(hours[2]))
        level = None if levelled else re.fullmatch(r"(.+?)_?(\d{2,4})", word)
        if level and (row := _table().get((level[1], True))):
            return replace(row, level=float(level[2]))
    return None


def published_name(name: str, *, levelled: bool, hours: float = 0.0) -> str:
    """Return WeatherBench 2's name of one of ours, or ours; of a sum with its hours, `…_6hr`."""
    row = _table().get((name, levelled))
    if row is None or row.kind == "static":
        return name
    others = [other for (other, _), known in _table().items() if known is row and other != name]
    long = [other for other in others if "_" in other or (other.isalpha() and len(other) > 5)]
    summed = f"_{hours:g}hr" if row.kind == "sum" and hours and hours == int(hours) else ""
    return (long[0] if long else name) + summed


def near_names(word: str) -> str:
    """Return a suggestion for a name that is not in the table, or nothing."""
    return did_you_mean(word, sorted({name for name, _ in _table()}))


def unit_of(name: str, *, levelled: bool) -> str:
    """Return the SI unit of one of our names; `1` for a name that is not in the table."""
    return row.unit if (row := _table().get((name, levelled))) else "1"


def in_order(names: Iterable[str]) -> list[str]:
    """Return names as Aurora has them: its own variables first, then the others by name."""
    return sorted(names, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))


def conversion(unit: str, wanted: str) -> tuple[float, float] | None:
    """Return what turns `unit` into the SI unit `wanted`, factor and what is added then; None if unknown.

    Units are compared with their parts between dots: `kg kg**-1` and `kg/kg` are both `kg.kg-1`.
    """
    text = re.sub(r"\*\*|\^|[()]", "", unit.strip().lower()).replace("0 - 1", "0-1")
    text = re.sub(r"^deg(rees?)?[ _](?=[ckf])", "deg", text)
    text = re.sub(r"/\s*([a-zµ]+)(\d*)", lambda part: f" {part[1]}-{part[2] or 1}", text)
    spelt = ".".join(re.split(r"[\s.*·]+", text.strip()))
    for spellings, factor in _UNITS.get(wanted, {spelt: 1.0}).items():
        if spelt in spellings.split():
            added = 273.15 if "c" in spelt else 459.67 * 5 / 9 if "f" in spelt else 0.0
            return float(factor), added if wanted == "K" else 0.0
    return None
