"""Aurora, a foundation model of the atmosphere: networks, named sizes, official layouts."""

from apps.weather.models.aurora.air_pollution import AuroraAirPollution, aurora_air_pollution
from apps.weather.models.aurora.config import from_official_config, to_official_config
from apps.weather.models.aurora.network import (
    Aurora,
    aurora_0p1,
    aurora_12h,
    aurora_finetuned,
    aurora_large,
    aurora_small,
)
from apps.weather.models.aurora.official import KEY_MAP, key_maps
from apps.weather.models.aurora.settings import PerceiverShape, RolloutLoRA, SwinShape
from apps.weather.models.aurora.wave import AuroraWave, aurora_wave

__all__ = [
    "KEY_MAP",
    "Aurora",
    "AuroraAirPollution",
    "AuroraWave",
    "PerceiverShape",
    "RolloutLoRA",
    "SwinShape",
    "aurora_0p1",
    "aurora_12h",
    "aurora_air_pollution",
    "aurora_finetuned",
    "aurora_large",
    "aurora_small",
    "aurora_wave",
    "from_official_config",
    "key_maps",
    "to_official_config",
]
