"""Remote sensing: Prithvi and SoftCon on images of the Earth, their fine-tuning and maps of whole scenes."""

from __future__ import annotations

VERBS = {"predict": "apps.remote_sensing.predict:main", "embed": "apps.remote_sensing.embed:main"}
"""What `dfm remote-sensing` does in its own way: scenes of any size in, maps or features out."""

GENERATE = "apps.remote_sensing.generate_command:main"
"""What `dfm data generate remote_sensing/landscapes` runs."""
