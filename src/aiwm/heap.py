"""How the process keeps its memory."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of glibc's `mallopt` (malloc.h)."""
_KEPT_BYTES = 32 * 1024 * 1024


def keep_large_buffers() -> None:
    """Keeps buffers of some megabytes for the next body instead of giving them back to the kernel.

    glibc gives back what is large as soon as it is free, and the next body gets the same memory anew, page by page:
    for 5 MB that costs as much as all else that is done with them. Other C libraries know no such setting.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
