"""Models that a worker keeps from task to task: read once, checked by digest, and bounded in bytes."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from sie_spark.platform.errors import ModelError
from sie_spark.platform.root import read_bytes

MOST_BYTES = 2 << 30  # of checkpoints behind what is kept

T = TypeVar("T")


class ModelCache:
    """What was made of checkpoints, the one least lately used let go first.

    Parameters
    ----------
    most:
        bytes of checkpoints; the newest stays, however large it is.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most = most
        self.reads = 0  # checkpoints read
        self._kept: OrderedDict[Hashable, tuple[int, Any]] = OrderedDict()

    def get(self, uri: str, digest: str, make: Callable[[bytes], T], *, kind: Hashable = "model") -> T:
        """What ``make`` makes of the checkpoint's bytes.

        Parameters
        ----------
        uri, digest:
            where it lies, and the SHA-256 of its bytes as the driver saw them.
        kind:
            tells apart what different callers make of one checkpoint.

        Raises
        ------
        ModelError
            when the file holds other bytes by now.
        """
        key = (digest, kind)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][1]
        data = read_bytes(uri)
        self.reads += 1
        if hashlib.sha256(data).hexdigest() != digest:
            raise ModelError(f"{uri} changed while it was being used", remedy="run the same command again")
        made = make(data)
        self._kept[key] = (len(data), made)
        while len(self._kept) > 1 and sum(size for size, _ in self._kept.values()) > self.most:
            self._kept.popitem(last=False)
        return made


CACHE = ModelCache()
