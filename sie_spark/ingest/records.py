"""A record as it came, as JSON: what quarantine keeps of one, its identifiers hashed as everywhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import cast

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, MapType, StructType

from sie_spark.ingest.pseudonyms import pseudonym
from sie_spark.platform.config import Dataset
from sie_spark.sources.drift import AS_JSON, EXTRA, SOURCE, Raw


def record_of(raw: Raw, dataset: Dataset, identifiers: Sequence[str], *, kept: bool) -> Column:
    """The source row as JSON; fields that an identifier is made from are hashed, of nested ones, if ``kept``, parts."""
    texts = [dataset.columns[name] for name in identifiers if name in dataset.columns]
    sql = " ".join(texts).lower().replace("`", "")
    words = set(re.findall(r"\w+", sql))

    def identifies(name: str) -> bool:  # a name that is no word (`user-id`) stands in the SQL as it is
        return name.lower() in (words if re.fullmatch(r"\w+", name) else sql)

    struct, fields = cast(StructType, raw.frame.schema[SOURCE].dataType), []
    for one in struct:
        field = F.col(SOURCE)[one.name]
        if identifies(one.name):
            inner = raw.frame.schema[one.name].dataType if kept and f"{one.name.lower()}." in sql else None
            field = _hidden(field, one.dataType, inner, identifies)
        fields.append(field.alias(one.name))
    # of an expression another hash than the field's: both are kept, for 'sie forget'
    fields += [F.col(name) for name in identifiers if name not in struct.names]
    if dataset.source.on_new_column == "quarantine":
        fields.append(F.col(EXTRA).alias("undeclared"))
    return F.to_json(F.struct(*fields), AS_JSON)


def _hidden(
    value: Column, kind: DataType, inner: DataType | None, identifies: Callable[[str], bool]
) -> Column:
    """A field that an identifier is made from, as it is kept; see :func:`pseudonym`.

    Parameters
    ----------
    kind:
        of the value; a nested field may be its JSON text.
    inner:
        the declared type where only inner fields identify: those are hashed and the others stay; None: all of it is
        hashed, and so is a text that holds no object.
    """
    if isinstance(inner, StructType) and any(map(identifies, inner.names)):
        if isinstance(kind, StructType):
            parts = {one.name: value[one.name] for one in kind if one.name in inner.names}
            for name in filter(identifies, parts):
                parts[name] = _hidden(parts[name], kind[name].dataType, inner[name].dataType, identifies)
            return F.when(value.isNotNull(), F.struct(*[part.alias(name) for name, part in parts.items()]))
        named = [name for name in inner.names if identifies(name)]
        known = F.map_filter(F.from_json(value, "map<string,string>"), lambda name, _: name.isin(inner.names))
        kept = F.transform_values(
            known, lambda name, part: F.when(name.isin(named), pseudonym(part)).otherwise(part)
        )
        return F.coalesce(F.to_json(kept), pseudonym(value))
    return pseudonym(
        F.to_json(value, AS_JSON) if isinstance(kind, ArrayType | MapType | StructType) else value
    )
