"""The encoder: one frozen, versioned artefact that turns impressions into fixed-width arrays.

``transform`` is Column expressions and lookups by broadcast join; ``transform_row`` needs no Spark and gives
the same bits. The artefact is JSON; large vocabularies lie in Parquet beside it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sie_spark.features.identifiers import Category, IdList
from sie_spark.features.numbers import Number, Pieces
from sie_spark.features.vectors import Vector
from sie_spark.features.vocabulary import Vocabulary, ids_from_dict
from sie_spark.platform.errors import DataError, ModelError
from sie_spark.platform.inputs import InputSpec
from sie_spark.platform.root import Root, read_bytes

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

FORMAT_VERSION = 1
Fitted = Category | IdList | Number | Vector


@dataclass(frozen=True)
class Encoder:
    """Fitted features in the order of the configuration, and what they were fitted on.

    Parameters
    ----------
    features:
        one fitted feature each.
    fitted:
        plain data: cut-off, rows, positives.
    """

    features: tuple[Fitted, ...]
    fitted: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> InputSpec:
        """Shape of an encoded row."""
        lists = [feature for feature in self.features if isinstance(feature, IdList)]
        return InputSpec(
            categories={f.name: f.ids.size for f in self.features if isinstance(f, Category)},
            numbers=tuple(name for f in self.features if isinstance(f, Number) for name in f.outputs),
            bags={f.name: (f.ids.size, f.length) for f in lists if f.kind != "sequence"},
            sequences={f.name: (f.ids.size, f.length) for f in lists if f.kind == "sequence"},
            vectors={f.name: f.width for f in self.features if isinstance(f, Vector)},
            shares={f.name: f.shares for f in lists if f.shares},
        )

    def transform(self, frame: DataFrame, keep: Sequence[Column] = ()) -> DataFrame:
        """Encode a DataFrame.

        Parameters
        ----------
        frame:
            has the columns that the features' expressions read.
        keep:
            expressions over ``frame`` that stay beside the encoded columns.

        Returns
        -------
        DataFrame
            ``keep``, then ``cat`` array<int> [F], ``dense`` array<float> [D], and one array column a bag,
            text, sequence and vector, all of fixed length and without nulls.
        """
        from pyspark.sql import functions as F

        frame = frame.select(*keep, *[f.source().alias(_raw(f)) for f in self.features])
        kept = [F.col(f"`{name}`") for name in frame.columns if not name.startswith(_PREFIX)]
        found: dict[str, Column] = {}
        for feature in self.features:
            if not isinstance(feature, Category | IdList):
                continue
            frame, found[feature.name] = _look_up(frame, feature)
        return frame.select(*kept, *self._columns(found))

    def _columns(self, ids: dict[str, Column]) -> list[Column]:
        from pyspark.sql import functions as F

        def raw(feature: Fitted) -> Column:
            return F.col(f"`{_raw(feature)}`")

        cat = [ids[f.name] for f in self.features if isinstance(f, Category)]
        dense = [column for f in self.features if isinstance(f, Number) for column in f.columns(raw(f))]
        columns = [
            F.array(*cat).cast("array<int>").alias("cat"),
            F.array(*dense).cast("array<float>").alias("dense"),
        ]
        lists = {f.name: ids[f.name].alias(f.name) for f in self.features if isinstance(f, IdList)}
        vectors = {f.name: f.column(raw(f)).alias(f.name) for f in self.features if isinstance(f, Vector)}
        extras = {**lists, **vectors}
        return columns + [extras[name] for name in self.inputs.columns[2:]]

    def transform_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """Encode one row without Spark, bit for bit as :meth:`transform`.

        Parameters
        ----------
        row:
            feature name -> value. A feature with an ``expression`` takes the value of that expression; a
            name that is absent counts as missing.

        Returns
        -------
        dict
            ``cat`` list[int], ``dense`` list[float] (float32 values), and a list for each further input.
        """
        values: dict[str, Any] = {"cat": [], "dense": []}
        for feature in self.features:
            value = row.get(feature.name)
            if isinstance(feature, Category):
                values["cat"].append(feature.row(value))
            elif isinstance(feature, Number):
                values["dense"] += feature.row(value)
            else:
                values[feature.name] = feature.row(value)
        return {name: values[name] for name in self.inputs.columns}

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as written to JSON."""
        return {
            "format_version": FORMAT_VERSION,
            "fitted": self.fitted,
            "features": [_state(feature) for feature in self.features],
            "inputs": self.inputs.as_dict(),
        }

    def save(self, root: Root) -> tuple[str, str]:
        """Write ``encoders/<hash of the content>.json`` and point ``encoders/current.json`` to it.

        Returns
        -------
        fingerprint, path.
        """
        from sie_spark.platform.config.load import digest

        data = self.as_dict()
        fingerprint = digest(data)
        text = json.dumps({**data, "fingerprint": fingerprint}, ensure_ascii=False)
        path = root.write_bytes(text.encode("utf-8", "surrogatepass"), "encoders", f"{fingerprint}.json")
        pointer = json.dumps({"fingerprint": fingerprint, "path": path})
        root.write_bytes(pointer.encode(), "encoders", "current.json")
        return fingerprint, path

    @classmethod
    def load(cls, uri: str) -> Encoder:
        """Read an artefact.

        Raises
        ------
        ModelError
            when the file is no encoder, or was written by a newer version of this package.
        """
        try:
            data = json.loads(read_bytes(uri))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"encoder {uri}: {type(error).__name__} while reading",
                remedy="run 'sie encode' to write it again",
            ) from None
        return cls.from_dict(data, where=uri)

    @classmethod
    def from_dict(cls, data: dict[str, Any], *, where: str = "encoder") -> Encoder:
        """Inverse of :meth:`as_dict`; see :meth:`load`."""
        version = data.get("format_version") if isinstance(data, dict) else None
        if not isinstance(version, int):
            raise ModelError(f"{where} is not an encoder artefact", remedy="give a file from <root>/encoders")
        if version > FORMAT_VERSION:
            raise ModelError(
                f"{where} has format {version}; this version reads up to {FORMAT_VERSION}",
                remedy="update sie-spark where the encoder is used, or encode again with this version",
            )
        base = where.rpartition("/")[0]
        features = tuple(_feature(state, base) for state in data["features"])
        return cls(features, dict(data.get("fitted", {})))

    @classmethod
    def current(cls, root: Root) -> Encoder | None:
        """The encoder that the pointer names, or None before the first fit."""
        name = current_name(root)
        return cls.load(root.path("encoders", f"{name}.json")) if name else None


def current_name(root: Root) -> str | None:
    """Fingerprint of the current encoder; forgetting a value changes its content and not its name."""
    if not root.exists("encoders", "current.json"):
        return None
    return str(json.loads(read_bytes(root.path("encoders", "current.json")))["fingerprint"])


_PREFIX = "__feature_"


def _raw(feature: Fitted) -> str:
    return f"{_PREFIX}{feature.name}"


def _look_up(frame: DataFrame, feature: Category | IdList) -> tuple[DataFrame, Column]:
    """The frame, joined with the vocabulary where that is needed, and the id (or padded ids)."""
    from pyspark.sql import functions as F

    raw, ids = F.col(f"`{_raw(feature)}`"), feature.ids
    if not (isinstance(ids, Vocabulary) and ids.joins):
        return frame, ids.column(raw) if isinstance(feature, Category) else feature.column(raw)
    table = ids.table(frame.sparkSession)
    if isinstance(feature, Category):
        return _join(frame, table, raw, feature.name)
    columns = []  # one broadcast, looked up once a place of the list: no explode, so no shuffle
    for at in range(feature.length):
        frame, column = _join(frame, table, F.get(raw, F.lit(at)), f"{feature.name}_{at}")
        columns.append(column)
    return frame, F.array(*columns)


def _join(frame: DataFrame, table: DataFrame, value: Column, name: str) -> tuple[DataFrame, Column]:
    from pyspark.sql import functions as F

    lookup = table.alias(f"{_PREFIX}{name}")
    key, found = F.col(f"`{_PREFIX}{name}`.value"), F.col(f"`{_PREFIX}{name}`.id")
    return frame.join(lookup, value == key, "left"), F.coalesce(found, F.lit(0))


def _state(feature: Fitted) -> dict[str, Any]:
    state = asdict(feature)
    if isinstance(feature, Category | IdList):
        state["ids"] = feature.ids.as_dict()
    return state


def _feature(state: dict[str, Any], base: str) -> Fitted:
    state = dict(state)
    kind = state["kind"]
    if kind == "number":
        pieces = state.get("pieces")
        state["pieces"] = pieces and Pieces(tuple(pieces["edges"]), tuple(pieces["levels"]))
        return Number(**state)
    if kind == "vector":
        state["loadings"] = tuple(tuple(row) for row in state["loadings"])
        state["centre"] = tuple(state["centre"])
        return Vector(**state)
    if kind not in ("category", "bag", "text", "sequence"):
        raise DataError(f"encoder: unknown kind of feature '{kind}'", remedy="encode again with this version")
    state["ids"] = ids_from_dict(state["ids"], base)
    return Category(**state) if kind == "category" else IdList(**state)
