"""What of a run's end decides how it would go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.checkpoints.files import newest_valid, read_checkpoint


def final(folder: Path) -> dict[str, Any]:
    """What the last checkpoint of a run holds that decides how it would go on."""
    checkpoint = read_checkpoint(newest_valid(folder / "checkpoints"))
    keys = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "loops", "Data")
    kept = {key: checkpoint[key] for key in keys}
    kept["averaging"] = [checkpoint.get("averaging_state"), checkpoint.get("current_model_state")]
    kept["streams"] = checkpoint["callbacks"]["RandomState"]
    return kept
