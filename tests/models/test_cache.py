"""The workers' cache: reads once, refuses other bytes, lets go of what was used longest ago."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sie_spark.models.cache import ModelCache
from sie_spark.platform.errors import ModelError


def file(folder: Path, name: str, size: int) -> tuple[str, str]:
    data = name.encode() * size
    (folder / name).write_bytes(data)
    return str(folder / name), hashlib.sha256(data).hexdigest()


def test_least_lately_used_goes_first_and_the_newest_stays(tmp_path: Path) -> None:
    cache = ModelCache(most=100)
    a, b, c, large = (
        file(tmp_path, name, size) for name, size in (("a", 40), ("b", 40), ("c", 40), ("d", 500))
    )
    made = [cache.get(*one, bytearray) for one in (a, b)]
    assert cache.get(*a, bytearray) is made[0] and cache.reads == 2
    cache.get(*c, bytearray)  # b was used longest ago
    assert cache.get(*a, bytearray) is made[0] and cache.reads == 3
    assert cache.get(*b, bytearray) is not made[1] and cache.reads == 4
    assert len(cache.get(*large, bytearray)) == 500
    assert cache.get(*large, bytes, kind="other") == b"d" * 500  # beside what another caller made of it


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    uri, digest = file(tmp_path, "a", 10)
    (tmp_path / "a").write_bytes(b"other")
    with pytest.raises(ModelError, match="changed while it was being used"):
        ModelCache().get(uri, digest, bytes)
