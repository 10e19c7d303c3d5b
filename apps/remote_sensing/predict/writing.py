"""One sentence for all that keeps a result from being written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import UserError

__all__ = ["unwritable", "writing"]


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system says against writing `path` within the block into a mistake of the user.

    Raises:
        UserError: If the disk is full, the folder cannot be written to, or the like.
    """
    from rasterio.errors import RasterioError

    try:
        yield
    except BrokenPipeError:  # of a reader of stdout that left
        raise
    except (OSError, RasterioError) as error:
        raise unwritable(path, error) from error


def unwritable(path: str | os.PathLike[str], error: Exception) -> UserError:
    """Return the sentence that `path` cannot be written, and why."""
    told = error.strerror if isinstance(error, OSError) else None
    reason = told or (str(error) or type(error).__name__).splitlines()[0].strip(" .")
    return UserError(
        f"{os.fspath(path)} cannot be written ({reason}); make room or choose another folder, then run again"
    )
