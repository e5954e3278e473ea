"""A value leaves every vocabulary; its id stays, so that models fitted on it still serve everyone else."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

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
        found = [_erase_inline(ids, value) for ids in vocabularies]
        if any(found):
            text = json.dumps(artefact, ensure_ascii=False)
            root.write_bytes(text.encode("utf-8", "surrogatepass"), FOLDER, name)
        found += [_erase_file(root, ids["path"], value) for ids in vocabularies if ids.get("path")]
        if any(found):
            held.append(name.removesuffix(".json"))
    return held


def forgotten(identifier: int) -> str:
    """What stands in the place of an erased value; ``\\0`` keeps it apart from every real one."""
    return f"\0forgotten {identifier}"


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
    found = False
    for name in root.files(*folder):
        if not name.endswith(".parquet"):
            continue
        table = pq.read_table(io.BytesIO(read_bytes(root.path(*folder, name))))
        theirs = pc.equal(table["value"], value)
        if not pc.any(theirs).as_py():
            continue
        words = pc.if_else(
            theirs, pa.scalar(forgotten(pc.filter(table["id"], theirs)[0].as_py())), table["value"]
        )
        buffer = io.BytesIO()
        pq.write_table(table.set_column(table.schema.get_field_index("value"), "value", words), buffer)
        # Spark's checksum of the file as it was would make it unreadable
        root.remove(*folder, f".{name}.crc")
        root.write_bytes(buffer.getvalue(), *folder, name)
        found = True
    return found
