"""Music and the language models behind it: decoders over tokens, of text so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PREDICTOR = "apps.music.predict.model:Writer"
"""The class that a checkpoint of this domain becomes in Python (`domainfm.load`)."""

PREDICT_EXAMPLE = "--data.path prompts.txt --out continuations.json"
"""Options of `predict` that the end of a `fit` proposes."""

VERBS = {"predict": "apps.music.predict.command:main", "tokenize": "apps.music.data.tokenize_command:main"}
"""Verbs of `dfm music` of its own: prompts in and continuations out; texts in and tokens out."""

INHERITED = ("context", "tokenizer")
"""Values of the data that a recipe takes over from its parent's run, because the network is bound to them."""


def about_data(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the values that a config says of its own data, which `--data.path` makes void."""
    return ("card",)
