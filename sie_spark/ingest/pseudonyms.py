"""Identifiers become keyed hashes before anything is written; the key travels as data, never as a literal.

A literal in an expression is printed by ``explain``, kept in event logs and in table histories. A one-row
relation joined to the records is not: plans print its column names only.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import Column
from pyspark.sql import functions as F

from sie_spark.platform.errors import PlatformError
from sie_spark.platform.root import read_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import DataFrame, SparkSession

    from sie_spark.platform.root import Root

ENVIRONMENT = "SIE_PSEUDONYM_KEY"
KEY_FILE = ".pseudonym_key"
KEY_MARK = ("state", "pseudonym_key_mark")  # a hash under the key: tells keys apart, and nothing of them
INNER, OUTER = "_sie_inner", "_sie_outer"
LENGTH = 32  # hex digits kept: 128 bits, no collision in practice
BLOCK = 64  # bytes of a SHA-256 block


def load_key(root: Root, *, say: Callable[[str], None]) -> bytes:
    """The key: from the environment, else the one of a local root, made once and said.

    Raises
    ------
    PlatformError
        when the root is an object store and the environment holds no key.
    """
    text = os.environ.get(ENVIRONMENT)
    if text:
        return _same_key(root, text.encode())
    if not root.is_local:
        raise PlatformError(
            f"no key for pseudonyms: {ENVIRONMENT} is not set and {root.uri} is not a local root",
            remedy=f"set {ENVIRONMENT} from your secret store; keep it, or people cannot be found again",
        )
    file = Path(root.path(KEY_FILE))
    if not file.exists() and _made(file):
        say(f"{ENVIRONMENT} is not set: made a key for this root in {file} (mode 600); keep it safe")
    return _same_key(root, file.read_text().strip().encode())


def _made(file: Path) -> bool:
    """Make a key, whole or not at all, for half a key is a key too; false where another run was first."""
    partial = file.with_name(f"{KEY_FILE}.{os.getpid()}.part")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(secrets.token_hex(32))
    try:
        os.link(partial, file)  # unlike a move it never replaces a key
    except FileExistsError:
        return False
    finally:
        partial.unlink()
    return True


def _same_key(root: Root, key: bytes) -> bytes:
    """The key, if it is the one this root's identifiers were hashed with."""
    mark = pseudonym_of("which key made this root", key).encode()
    if not root.exists(*KEY_MARK):
        root.write_bytes(mark, *KEY_MARK)
    elif read_bytes(root.path(*KEY_MARK)) != mark:
        raise PlatformError(
            f"{root.uri} was made with another pseudonym key: everybody would become somebody else",
            remedy=f"set {ENVIRONMENT} to the key of that time (a local root keeps its own in {KEY_FILE}),"
            " or take another --root",
        )
    return key


def with_key(frame: DataFrame, key: bytes, spark: SparkSession) -> DataFrame:
    """``frame`` with the two padded keys of HMAC as binary columns (drop them before writing)."""
    inner, outer = _pads(key)
    row = [(bytearray(inner), bytearray(outer))]
    keys = spark.createDataFrame(row, f"{INNER} binary, {OUTER} binary")
    return frame.crossJoin(F.broadcast(keys))


def pseudonym(value: Column) -> Column:
    """HMAC-SHA256 of a value's text, first 32 hex digits; null stays null. Needs :func:`with_key`."""
    message = value.cast("string").cast("binary")
    inside = F.sha2(F.concat(F.col(INNER), message), 256)
    return F.substring(F.sha2(F.concat(F.col(OUTER), F.unhex(inside)), 256), 1, LENGTH)


def pseudonym_of(value: str, key: bytes) -> str:
    """The same in plain Python, for one identifier (``sie forget``)."""
    inner, outer = _pads(key)
    inside = hashlib.sha256(inner + value.encode()).digest()
    return hashlib.sha256(outer + inside).hexdigest()[:LENGTH]


def _pads(key: bytes) -> tuple[bytes, bytes]:
    block = (hashlib.sha256(key).digest() if len(key) > BLOCK else key).ljust(BLOCK, b"\0")
    return bytes(byte ^ 0x36 for byte in block), bytes(byte ^ 0x5C for byte in block)
