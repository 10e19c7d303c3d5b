"""Token data: texts and containers of tokens to rows of equal length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy

if TYPE_CHECKING:
    from apps.music.data.module import Tokens

__all__ = ["Tokens"]

__getattr__ = lazy(__name__, Tokens="module")
