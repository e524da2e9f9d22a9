"""Arrays in memory that is pinned, to which a GPU copies at full speed, by CUDA's runtime library."""

import ctypes
import logging
import math
import weakref
from collections.abc import Callable
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import InferenceError, RuntimeUnavailableError

_log = logging.getLogger(__name__)
_LIBRARIES = ("libcudart.so.12", "libcudart.so.13")
_PORTABLE, _DEVICE_TO_HOST = 1, 2
"""Of ``cudaHostAlloc`` (pinned for every GPU), and of ``cudaMemcpy``."""
MOST_BYTES = 1 << 30
"""Pinned at once: memory that the system cannot put to any other use."""


class PinnedMemory:
    """Copies tensors out of a GPU's memory into arrays whose memory is used again once nobody holds them.

    Threads: any. Beyond `most_bytes` arrays have ordinary memory, which is slower.
    """

    def __init__(
        self, device_id: int, load: Callable[[str], Any] = ctypes.CDLL, *, most_bytes: int = MOST_BYTES
    ) -> None:
        """Open CUDA's runtime library; RuntimeUnavailableError if it is absent."""
        self._cuda = _open_first(load)
        self._device_id = device_id
        self._most_bytes = most_bytes
        self._held_bytes = 0
        self._free: dict[int, list[int]] = {}
        # An array may be let go, and come back, while the lock is held.
        self._lock = RLock()
        self._closed = False

    def fetch(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Copy a tensor; InferenceError if CUDA cannot copy it."""
        self._cuda.cudaSetDevice(self._device_id)
        found = self._array(shape, dtype)
        code = self._cuda.cudaMemcpy(
            ctypes.c_void_p(found.ctypes.data), ctypes.c_void_p(address), ctypes.c_size_t(found.nbytes), _DEVICE_TO_HOST
        )
        if code:
            raise InferenceError(f"a result cannot be copied from the GPU: CUDA answers with error {code}")
        return found

    def close(self) -> None:
        """Give the memory back: at once what nobody holds, else when it is let go."""
        with self._lock:
            self._closed = True
            self._free_unused()

    def _free_unused(self) -> None:
        free, self._free = self._free, {}
        for size, addresses in free.items():
            self._held_bytes -= size * len(addresses)
            for address in addresses:
                self._cuda.cudaFreeHost(ctypes.c_void_p(address))

    def _array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        size = math.prod(shape) * dtype.itemsize
        address = self._taken(size) if size else None
        if address is None:
            return np.empty(shape, dtype)
        buffer = (ctypes.c_ubyte * size).from_address(address)
        # Every view of the array holds the buffer.
        weakref.finalize(buffer, self._give_back, size, address).atexit = False
        return np.frombuffer(memoryview(buffer), dtype).reshape(shape)

    def _taken(self, size: int) -> int | None:
        with self._lock:
            if self._free.get(size):
                return self._free[size].pop()
            if self._held_bytes + size > self._most_bytes:
                self._free_unused()  # of sizes that came earlier
            if self._held_bytes + size > self._most_bytes:
                return None
            self._held_bytes += size
        found = ctypes.c_void_p()
        code = self._cuda.cudaHostAlloc(ctypes.byref(found), ctypes.c_size_t(size), _PORTABLE)
        if code:
            _log.warning("%d bytes cannot be pinned (CUDA error %d): results are copied more slowly", size, code)
            with self._lock:
                self._held_bytes -= size
                self._most_bytes = 0  # the warning is given once
            return None
        return found.value

    def _give_back(self, size: int, address: int) -> None:
        with self._lock:
            self._free.setdefault(size, []).append(address)
            if self._closed:
                self._free_unused()


def _open_first(load: Callable[[str], Any]) -> Any:  # noqa: ANN401
    failed: list[str] = []
    for name in _LIBRARIES:
        try:
            return load(name)
        except OSError as error:
            failed.append(str(error))
    raise RuntimeUnavailableError(f"CUDA's runtime library cannot be opened: {'; '.join(failed)}")
