"""The folder of an export: whose it is, when it is whole, and a list of all of them.

``export.json`` is written last: a folder that has it and not the mark of an unfinished one is whole. Nothing is
moved, so that an object store does the same as a disk.
"""

from __future__ import annotations

import json
from typing import Any

from sie_spark.platform.errors import PlatformError
from sie_spark.platform.root import Root

DONE, UNFINISHED = "export.json", "_unfinished.json"
MADE_BY = "sie export"
PARTS = ("train", "test")
NOTED = ("state", "exports.json")  # of the run's root: where rows of its people went


def parquet_of(part: str) -> str:
    """Folder of the Parquet files."""
    return f"{part}.parquet"


def libsvm_of(part: str) -> str:
    """Folder of the libsvm files; beside it, of the same name and ``.weight``, that of their weights."""
    return f"{part}.libsvm"


def weights_of(part: str) -> str:
    """Folder of the weights, one number a line: not among the lines of libsvm, where MLlib would read them too."""
    return f"{libsvm_of(part)}.weight"


def check_free(out: Root) -> None:
    """Raise unless the folder is empty, missing or an export.

    Raises
    ------
    PlatformError
        naming what is there.
    """
    try:
        held = out.entries()
    except OSError:
        raise PlatformError(
            f"--out {out.uri} is a file, or cannot be listed",
            remedy="name a folder; it is made where it is missing",
        ) from None
    if held and not any(_is_ours(out, name) for name in (UNFINISHED, DONE) if name in held):
        raise PlatformError(
            f"--out {out.uri} holds {', '.join(held[:3])}{' and more' if len(held) > 3 else ''}, and is no export",
            remedy="name an empty folder or one that does not exist yet",
        )


def begin(out: Root) -> None:
    """Mark the folder as ours and unfinished, and remove what an earlier export left."""
    check_free(out)
    out.write_bytes(_stamped({}), UNFINISHED)
    out.remove(DONE)
    for part in PARTS:
        for name in (parquet_of(part), libsvm_of(part), weights_of(part)):
            out.remove(name)


def finish(out: Root, said: dict[str, Any]) -> str:
    """Write what the export is; from now on it is whole. Returns the path of ``export.json``."""
    file = out.write_bytes(_stamped(said), DONE)
    out.remove(UNFINISHED)
    return file


def note(root: Root, out: Root, versions: dict[str, int]) -> None:
    """Remember, under the run's root, where its rows went: 'sie forget' names it."""
    known = root.read_json(*NOTED) or {}
    root.write_bytes(json.dumps({**known, out.uri: versions}, sort_keys=True).encode(), *NOTED)


def _stamped(said: dict[str, Any]) -> bytes:
    return json.dumps({"made_by": MADE_BY, **said}, indent=1, allow_nan=False).encode()


def _is_ours(out: Root, name: str) -> bool:
    try:
        found = out.read_json(name)
    except (ValueError, OSError):
        return False
    return isinstance(found, dict) and found.get("made_by") == MADE_BY
