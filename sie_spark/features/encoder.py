"""The encoder: one frozen, versioned artefact that turns impressions into fixed-width arrays.

``transform`` is Column expressions and lookups by broadcast join; ``transform_row`` needs no Spark and gives
the same bits. The artefact is JSON; large vocabularies lie in Parquet beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sie_spark.features.contents import FINGERPRINT, is_as_written
from sie_spark.features.hashing import plain
from sie_spark.features.identifiers import Category, IdList
from sie_spark.features.numbers import Number, Pieces
from sie_spark.features.vectors import Vector
from sie_spark.features.vocabulary import Vocabulary, ids_from_dict
from sie_spark.platform.errors import DataError, ModelError
from sie_spark.platform.inputs import InputSpec
from sie_spark.platform.root import Root, read_bytes, split

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

FORMAT_VERSION = 4
POINTER = ("encoders", "current.json")
UNFINISHED = ("encoders", "unfinished")  # there while samples are written anew: no one knows whose they are
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
            numbers=tuple(n for f in self.features if isinstance(f, Number | Vector) for n in f.outputs),
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

        Expressions are read as ingest and samples read them (not ANSI, times in UTC), whatever the session
        says. Spark Connect reads them when the frame is computed: set
        :data:`~sie_spark.platform.tables.EXPRESSIONS` there.
        """
        from pyspark.sql import functions as F

        from sie_spark.platform.tables import EXPRESSIONS, session_settings

        with session_settings(frame.sparkSession, EXPRESSIONS):
            raw = {f.name: f"{_PREFIX}{at}" for at, f in enumerate(self.features)}
            frame = frame.select(*keep, *[f.source().alias(raw[f.name]) for f in self.features])
            kept = [F.col(f"`{name}`") for name in frame.columns if not name.startswith(_PREFIX)]
            found = {name: F.col(column) for name, column in raw.items()}
            for feature in self.features:
                if isinstance(feature, Category | IdList):
                    frame, found[feature.name] = _look_up(frame, feature, raw[feature.name])
            return frame.select(*kept, *self._columns(found))

    def _columns(self, found: dict[str, Column]) -> list[Column]:
        """The encoded columns from ids and raw values."""
        from pyspark.sql import functions as F

        cat = [found[f.name] for f in self.features if isinstance(f, Category)]
        with_numbers = [f for f in self.features if isinstance(f, Number | Vector)]
        dense = [column for f in with_numbers for column in f.columns(found[f.name])]
        columns = [
            F.array(*cat).cast("array<int>").alias("cat"),
            F.array(*dense).cast("array<float>").alias("dense"),
        ]
        lists = {f.name: found[f.name] for f in self.features if isinstance(f, IdList)}
        vectors = {f.name: f.column(found[f.name]) for f in self.features if isinstance(f, Vector)}
        extras = {**lists, **vectors}
        return columns + [extras[name].alias(name) for name in self.inputs.columns[2:]]

    def transform_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """Encode one row without Spark, bit for bit as :meth:`transform`.

        Parameters
        ----------
        row:
            feature name -> value, of Python, numpy or pandas. A feature with an ``expression`` takes the
            value of that expression; a name that is absent counts as missing, as do None, NaN, NA and NaT;
            a name that no feature has is passed over. A category of dates takes a time as its date in UTC.

        Returns
        -------
        dict
            ``cat`` list[int], ``dense`` list[float] (float32 values), and a list for each further input.

        Raises
        ------
        DataError
            for a value of the wrong kind, naming its feature.
        """
        values: dict[str, Any] = {"cat": [], "dense": []}
        for feature in self.features:
            encoded = _row(feature, row.get(feature.name))
            if isinstance(feature, Category):
                values["cat"].append(encoded)
            elif isinstance(feature, Number):
                values["dense"] += encoded
            elif isinstance(feature, Vector):
                values[feature.name], dense = encoded
                values["dense"] += dense
            else:
                values[feature.name] = encoded
        return {name: values[name] for name in self.inputs.columns}

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as written to JSON."""
        return {
            "format_version": FORMAT_VERSION,
            "fitted": self.fitted,
            "features": [_state(feature) for feature in self.features],
            "inputs": self.inputs.as_dict(),
        }

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the content."""
        from sie_spark.platform.config.load import digest

        return digest(self.as_dict())

    @property
    def is_whole(self) -> bool:
        """Whether its vocabularies are there."""
        return all(ids.is_whole for ids in self._vocabularies())

    def write(self, root: Root) -> str:
        """Write ``encoders/<fingerprint>.json``, and beside it the vocabularies in Parquet; returns its path."""
        for ids in self._vocabularies():
            ids.copy(root)
        text = json.dumps({**self.as_dict(), FINGERPRINT: self.fingerprint}, ensure_ascii=False)
        return root.write_bytes(text.encode("utf-8", "surrogatepass"), "encoders", f"{self.fingerprint}.json")

    def _vocabularies(self) -> list[Vocabulary]:
        lists = (f.ids for f in self.features if isinstance(f, Category | IdList))
        return [ids for ids in lists if isinstance(ids, Vocabulary)]

    @classmethod
    def load(cls, uri: str | Path) -> Encoder:
        """Read an artefact.

        Raises
        ------
        ModelError
            when the file is no encoder, is damaged, or was written by another version of this package.
        """
        try:
            data = json.loads(read_bytes(str(uri)))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"encoder {uri}: {type(error).__name__} while reading",
                remedy="run 'sie encode' to write it again",
            ) from None
        return cls.from_dict(data, where=uri)

    @classmethod
    def from_dict(cls, data: dict[str, Any], *, where: str | Path = "") -> Encoder:
        """Inverse of :meth:`as_dict`; see :meth:`load`.

        Parameters
        ----------
        where:
            path or URI of the artefact; vocabularies in Parquet lie beside it.
        """
        said = str(where) or "the data"
        version = data.get("format_version") if isinstance(data, dict) else None
        if type(version) is not int or version < 1:
            raise ModelError(f"{said} is not an encoder artefact", remedy="give a file from <root>/encoders")
        if version != FORMAT_VERSION:
            raise ModelError(
                f"{said} has format {version}; this version reads format {FORMAT_VERSION}",
                remedy="encode and fit again with this version, or use the version of sie-spark that wrote it",
            )
        states, fitted = data.get("features"), data.get("fitted", {})
        if not isinstance(states, list) or not isinstance(fitted, dict):
            field_ = "fitted" if isinstance(states, list) else "features"
            raise _damaged(said, f"field '{field_}' is {type(data.get(field_)).__name__}")
        base = _folder(str(where)) if where else ""
        features = tuple(_feature(state, base, said) for state in states)
        if not is_as_written(data):
            raise _damaged(said, f"it holds other values than were written under {data[FINGERPRINT]!r:.60}")
        return cls(features, dict(fitted))


def path_of(root: Root, name: str) -> str:
    """Where the encoder of a fingerprint lies."""
    return root.path("encoders", f"{name}.json")


def set_current(root: Root, name: str) -> None:
    """Point to the encoder of a fingerprint."""
    pointer = {"fingerprint": name, "path": path_of(root, name)}
    root.write_bytes(json.dumps(pointer).encode(), *POINTER)


def current_name(root: Root) -> str | None:
    """Fingerprint of the current encoder; forgetting a value changes its content and not its name."""
    if not root.exists(*POINTER):
        return None
    try:
        return str(json.loads(read_bytes(root.path(*POINTER)))["fingerprint"])
    except (ValueError, KeyError, TypeError):
        return None  # a damaged pointer names nothing; encode writes it again


def _folder(uri: str) -> str:
    """Where a file lies, whatever folder the process goes to."""
    return uri.rpartition("/")[0] if split(uri)[0] else str(Path(uri).absolute().parent)


def _row(feature: Fitted, value: Any) -> Any:
    """The encoded value of one row."""
    try:
        given = plain(value)
        if isinstance(feature, Vector):
            return feature.row(_parts(given))
        if (
            isinstance(feature, Category | Number)
            and isinstance(given, Iterable)
            and not isinstance(given, str)
        ):
            raise TypeError("no scalar")
        return feature.row(given)
    except (TypeError, ValueError, ArithmeticError):
        raise DataError(
            f"feature '{feature.name}' is a {feature.kind}, but the row has {type(value).__name__} {value!r:.60}",
            remedy=_TAKES[feature.kind],
        ) from None


_TAKES = {
    "category": "give one text, number, boolean or date",
    "number": "convert the value to a number before encoding",
    "text": "give a str",
    "bag": "give a list of values",
    "sequence": "give a list of values, the newest first",
    "vector": "give a list or an array of numbers",
}


def _parts(value: Any) -> Any:
    """The numbers of a vector, None where it is missing."""
    if value is None or (isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "fiu"):
        return value
    parts = [plain(part) for part in value]
    if isinstance(value, str | bytes | Mapping) or any(isinstance(part, Iterable) for part in parts):
        raise TypeError("no numbers")
    return parts


_PREFIX = "__feature_"


def _look_up(frame: DataFrame, feature: Category | IdList, name: str) -> tuple[DataFrame, Column]:
    """The frame, joined with the vocabulary where that is needed, and the id (or padded ids).

    ``name`` is the column of raw values; it names the joins too, since no other feature has it.
    """
    from pyspark.sql import functions as F

    raw, ids = F.col(name), feature.ids
    if not (isinstance(ids, Vocabulary) and ids.joins):
        return frame, ids.column(raw) if isinstance(feature, Category) else feature.column(raw)
    table = ids.table(frame.sparkSession)
    if isinstance(feature, Category):
        return _join(frame, table, raw, f"{name}_ids")
    columns = []  # one broadcast, looked up once a place of the list: no explode, so no shuffle
    for at in range(feature.length):
        frame, column = _join(frame, table, F.get(raw, F.lit(at)), f"{name}_ids_{at}")
        columns.append(column)
    return frame, F.array(*columns)


def _join(frame: DataFrame, table: DataFrame, value: Column, name: str) -> tuple[DataFrame, Column]:
    from pyspark.sql import functions as F

    key, found = F.col(f"{name}.value"), F.col(f"{name}.id")
    return frame.join(table.alias(name), value == key, "left"), F.coalesce(found, F.lit(0))


def _state(feature: Fitted) -> dict[str, Any]:
    state = asdict(feature)
    if isinstance(feature, Category | IdList):
        state["ids"] = feature.ids.as_dict()
    return state


def _feature(state: Any, base: str, where: str) -> Fitted:
    try:
        return _restored(dict(state), base)
    except KeyError as error:
        problem = f"field {error} is missing"
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        problem = str(error).rpartition("__init__() ")[2]
    name = state.get("name") if isinstance(state, dict) else state
    raise _damaged(where, f"feature {name!r:.60}: {problem}")


def _damaged(where: str, problem: str) -> ModelError:
    return ModelError(
        f"{where} is damaged: {problem}", remedy="copy it again from where it works, or run 'sie encode'"
    )


def _restored(state: dict[str, Any], base: str) -> Fitted:
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
        raise ValueError(f"unknown kind '{kind}'")
    state["ids"] = ids_from_dict(state["ids"], base)
    return Category(**state) if kind == "category" else IdList(**state)
