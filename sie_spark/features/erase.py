"""A value leaves every vocabulary; its id stays, so that models fitted on it still serve everyone else."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sie_spark.features.contents import (
    ERASED,
    FORGOTTEN,
    LEFT,
    content_of,
    contents_left,
    digest_of,
    is_as_written,
)
from sie_spark.features.fit import DRAFTS
from sie_spark.platform.root import Root, read_bytes

FOLDER = "encoders"
POINTERS = ("current.json", "start_vectors.json")  # the second one of earlier versions


def erase_value(root: Root, value: str) -> list[str]:
    """Replace a value in all encoders under a root by a word that no value has.

    Returns
    -------
    list of str
        fingerprints of the encoders that held it.
    """
    root.remove(*DRAFTS)  # an encode that was killed left whole vocabularies there
    held = []
    for name in root.files(FOLDER):
        if not name.endswith(".json") or name in POINTERS:
            continue
        artefact = json.loads(read_bytes(root.path(FOLDER, name)))
        vocabularies = [feature["ids"] for feature in artefact["features"] if "ids" in feature]
        is_right = is_as_written(artefact)
        found = [_erase_inline(ids, value) for ids in vocabularies]
        if any(found):
            if is_right:
                artefact[LEFT] = digest_of(artefact)
            text = json.dumps(artefact, ensure_ascii=False)
            root.write_bytes(text.encode("utf-8", "surrogatepass"), FOLDER, name)
        found += [_erase_file(root, ids["path"], value) for ids in vocabularies if ids.get("path")]
        if any(found):
            held.append(name.removesuffix(".json"))
    return held


def forgotten(identifier: int) -> str:
    """What stands in the place of an erased value; ``\\0`` keeps it apart from every real one."""
    return f"{FORGOTTEN}{identifier}"


def _erase_inline(ids: dict[str, object], value: str) -> bool:
    values = ids.get("values")
    if not isinstance(values, list) or value not in values:
        return False
    at = values.index(value)
    values[at] = forgotten(at + 1)
    return True


def _erase_file(root: Root, path: str, value: str) -> bool:
    """The same in a vocabulary that lies in Parquet (one file, bounded by max_vocabulary)."""
    folder = (FOLDER, *path.split("/"))
    names = [name for name in root.files(*folder) if name.endswith(".parquet")]
    tables = {name: pq.read_table(io.BytesIO(read_bytes(root.path(*folder, name)))) for name in names}
    left = {name: _without(table, value) for name, table in tables.items()}
    changed = [name for name in names if left[name] is not tables[name]]
    if not changed:
        return False
    _say_content(root, folder, pa.concat_tables(tables.values()), pa.concat_tables(left.values()))
    for name in changed:
        buffer = io.BytesIO()
        pq.write_table(left[name], buffer)
        # Spark's checksum of the file as it was would make it unreadable
        root.remove(*folder, f".{name}.crc")
        root.write_bytes(buffer.getvalue(), *folder, name)
    return True


def _without(table: pa.Table, value: str) -> pa.Table:
    """A vocabulary's table without a value; the same object where it is not there."""
    theirs = pc.equal(table["value"], value)
    if not pc.any(theirs).as_py():
        return table
    word = pa.scalar(forgotten(pc.filter(table["id"], theirs)[0].as_py()))
    words = pc.if_else(theirs, word, table["value"])
    return table.set_column(table.schema.get_field_index("value"), "value", words)


def _say_content(root: Root, folder: tuple[str, ...], before: pa.Table, after: pa.Table) -> None:
    """Leave the content that is to be written beside it, for :mod:`sie_spark.features.contents`.

    Said before it is written: killed in between, either content is right. One that was changed by hand before is
    not said, and stays to be found.
    """
    found, left = content_of(before), contents_left(root.path(*folder))
    if left is None and found.forgotten:
        return  # by an earlier version, which did not say what it left: nothing can be told from the name
    left = left or []
    if found.name in (folder[-1], *left):
        left.append(content_of(after).name)
    root.write_bytes(json.dumps(left).encode(), *folder, ERASED)
