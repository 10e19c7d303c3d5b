"""Which released TTM fits a series, by the authors' selection rules (granite-tsfm, get_model).

Each released checkpoint is bound to one pair of context and horizon; this picks the pair, and says what has
to be done around it: pad a short context, cut a long horizon, or roll a short one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from apps.timeseries.data.frequency import is_daily_or_slower
from core.errors import UserError
from core.files import cards_folder

__all__ = ["Choice", "Variant", "choose", "variant_from_name"]

_NAME = re.compile(
    r"ttm-(?P<family>r\d+(?:\.\d+)?)(?P<research>-research)?-(?P<context>\d+)-(?P<horizon>\d+)(?P<marks>(?:-(?:ft|l1))*)"
)


@dataclass(frozen=True, order=True)
class Variant:
    """One released checkpoint.

    Args:
        name: Name of its weights card.
        family: `r1`, `r2`, `r2.1` (low resolution) or `r2-research`.
        context: Steps it looks at.
        horizon: Steps it forecasts.
        prefix_tuned: Whether it takes the sampling rate as a prefix token ("ft").
        absolute: Whether it was trained on the absolute error ("l1").
    """

    name: str
    family: str
    context: int
    horizon: int
    prefix_tuned: bool = False
    absolute: bool = False


@dataclass(frozen=True)
class Choice:
    """A variant, and what to do around it.

    Args:
        variant: The checkpoint.
        pad: Steps of left padding that the context needs.
        keep: Steps of each forecast that are kept (`prediction_filter_length`); None keeps all.
        chunks: Forecasts in a row; above 1 the series is rolled on its own predictions.
    """

    variant: Variant
    pad: int = 0
    keep: int | None = None
    chunks: int = 1


def choose(
    *,
    context: int,
    horizon: int,
    frequency: str = "",
    variants: Sequence[Variant] | None = None,
    family: str = "r2",
    longest_context: bool = True,
    prefer_absolute: bool = True,
    prefer_prefix_tuned: bool = True,
    short_context: str = "error",
    long_horizon: str = "error",
) -> Choice:
    """Return the variant for a series, by the published rules in their order.

    Daily or slower series take only low-resolution variants (r2.1). Of those whose context is available the
    longest (or the shortest) is taken, and with it the shortest horizon that is long enough. The two
    preferences count only among contexts up to 512, where such variants exist.

    Args:
        context: Steps of history there are.
        horizon: Steps wanted.
        frequency: Alias of the sampling rate; empty where unknown.
        variants: To choose from; by default those that have a weights card.
        family: `r2` (with r2.1), `r1` or `r2-research`.
        longest_context: Prefer the longest context that is available.
        prefer_absolute: Prefer variants trained on the absolute error.
        prefer_prefix_tuned: Prefer variants with a resolution prefix.
        short_context: Where even the shortest context is not available: `error`, or `zeropad`.
        long_horizon: Where no horizon is long enough: `error`, or `rolling`.

    Raises:
        UserError: If nothing fits; the sentence gives the found and the allowed value.
    """
    for name, word, other in (
        ("short_context", short_context, "zeropad"),
        ("long_horizon", long_horizon, "rolling"),
    ):
        if word not in ("error", other):
            raise UserError(f"{name} is '{word}'; it must be error or {other}")
    if context < 1 or horizon < 1:
        raise UserError(f"context {context} and horizon {horizon} must both be at least 1")
    if variants is None:
        cards = sorted((cards_folder() / "weights").glob("ttm-*.md"))
        variants = [v for path in cards if (v := variant_from_name(path.stem)) is not None]
    families = {"r2.1"} if is_daily_or_slower(frequency) else {family, "r2.1"} if family == "r2" else {family}
    pool = [variant for variant in variants if variant.family in families]
    if not pool:
        raise UserError(
            f"no released variant of the families {', '.join(sorted(families))} has a weights card;"
            " start from a network of your own size (apps.timeseries.models.ttm)"
        )
    fitting = [variant for variant in pool if variant.context <= context]
    if not fitting:
        shortest = min(variant.context for variant in pool)
        if short_context == "error":
            raise UserError(
                f"the series has {context} steps of history, the shortest released context is {shortest};"
                " give more history, or ask for zero padding (short_context=zeropad)"
            )
        fitting = [variant for variant in pool if variant.context == shortest]
    enough = [variant for variant in fitting if variant.horizon >= horizon]
    if not enough:
        longest = max(variant.horizon for variant in fitting)
        if long_horizon == "error":
            raise UserError(
                f"the horizon is {horizon}, the longest of a released variant for this series is {longest};"
                f" ask for at most {longest}, or for rolling (long_horizon=rolling)"
            )
        enough = [variant for variant in fitting if variant.horizon == longest]

    def order(variant: Variant) -> tuple[int, int, bool, bool, str]:
        small = variant.context <= 512
        inexact = small and prefer_absolute and not variant.absolute
        unprefixed = small and prefer_prefix_tuned and not variant.prefix_tuned
        length = -variant.context if longest_context else variant.context
        return (length, variant.horizon, inexact, unprefixed, variant.name)

    best = min(enough, key=order)
    return Choice(
        variant=best,
        pad=max(0, best.context - context),
        keep=horizon if horizon < best.horizon else None,
        chunks=-(-horizon // best.horizon),
    )


def variant_from_name(name: str) -> Variant | None:
    """Return what a card's name such as `ttm-r2.1-512-96-ft-l1` stands for, None for any other."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    marks = match["marks"].split("-")
    research = bool(match["research"])
    return Variant(
        name=name,
        family=match["family"] + ("-research" if research else ""),
        context=int(match["context"]),
        horizon=int(match["horizon"]),
        prefix_tuned=research or match["family"] == "r2.1" or "ft" in marks,
        absolute="l1" in marks,
    )
