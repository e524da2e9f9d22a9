"""Give freed memory back to the system: a long run over many sizes stays as small as one image needs."""

import ctypes

_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE_BYTES = 128 << 10


def return_freed_memory() -> None:
    """Tell the C library to map large blocks by themselves and to keep one heap for all threads.

    By default glibc raises the size from which it maps blocks as it goes, and keeps a heap per thread: freed images
    then lie about in the heaps of several threads and are not returned. For whoever owns the process, before it opens
    a model; without effect where the C library has no such settings.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        set_option(_M_ARENA_MAX, 1)
