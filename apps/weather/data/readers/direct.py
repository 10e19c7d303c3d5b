"""Arrays of local Zarr stores, whose chunks zarrs reads at once in the thread that asks.

By way of zarr a read is planned in Python and handed from thread to thread, which takes three times as long
as to read and decode chunks of 50 kB, and needs threads that a forked process has lost.
"""

from __future__ import annotations

from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

__all__ = ["DirectArray"]


class DirectArray:
    """A Zarr array, all of whose attributes it has, with another way of reading where zarrs can.

    Args:
        array: As zarr alone reads it.
        decoded: The same, opened for zarrs.
    """

    def __init__(self, array: Any, decoded: Any) -> None:
        self._array, self._decoded = array, decoded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._array, name)

    @cached_property
    def _decoder(self) -> tuple[Any, Any] | None:
        """What retrieves chunks, and what describes one for it; None where zarr has to read."""
        try:
            from zarrs._internal import ChunkItem
        except ImportError:
            return None
        array = self._array
        retrieve = getattr(getattr(self._decoded.async_array, "codec_pipeline", None), "impl", None)
        plain = array.dtype.kind in "iuf" and array.dtype.isnative and array.fill_value is not None
        return (retrieve, ChunkItem) if retrieve is not None and plain else None

    def __getitem__(self, where: tuple[int | slice, ...]) -> Any:
        """Return a part; of each axis one place or a slice of step 1."""
        if self._decoder is None:
            return self._array[where]
        retrieve, item = self._decoder
        array, sizes = self._array, getattr(self._array, "shards", None) or self._array.chunks
        spans = [
            range(array.shape[axis])[part] if isinstance(part, slice) else range(part, part + 1)
            for axis, part in enumerate(where)
        ]
        out = np.empty([len(span) for span in spans], dtype=array.dtype)
        chunks = []
        grid = (range(s.start // size, -(-s.stop // size)) for s, size in zip(spans, sizes, strict=True))
        for chunk in product(*grid) if out.size else ():
            inside, outside = [], []
            for at, size, span in zip(chunk, sizes, spans, strict=True):
                first, last = max(at * size, span.start), min(at * size + size, span.stop)
                inside.append(slice(first - at * size, last - at * size))
                outside.append(slice(first - span.start, last - span.start))
            key = (array.store_path / array.metadata.encode_chunk_key(chunk)).path
            chunks.append(item(key, inside, sizes, outside, out.shape))
        retrieve.retrieve_chunks_and_apply_index(chunks, out)
        return out[tuple(slice(None) if isinstance(part, slice) else 0 for part in where)]
