"""The stage ``encode``: impressions to ``samples``, by an encoder that saw training rows only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sie_spark.features.encoder import UNFINISHED, Encoder, current_name, path_of, set_current
from sie_spark.features.fit import Training, fit
from sie_spark.features.resolve import resolve
from sie_spark.features.selection import select
from sie_spark.features.split import Cut, find_cut
from sie_spark.features.start_vectors import fit_start_vectors, has_start_vectors
from sie_spark.platform.catalog import dates_predicate
from sie_spark.platform.code import code_digest
from sie_spark.platform.config.load import digest
from sie_spark.platform.config.names import KEY, key_column
from sie_spark.platform.context import Context
from sie_spark.platform.errors import ConfigError, DataError, ModelError
from sie_spark.platform.result import Rows, StageResult
from sie_spark.platform.tables import EXPRESSIONS, session_settings

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

STAGE, PART = "encode", "__split"
SETTINGS = (
    *("dataset.features", "dataset.split", "dataset.label", "dataset.maturity_hours"),
    *("dataset.impressions.click_event", "dataset.impressions.conversion_event"),
    *("dataset.selection", "dataset.start_vectors", "dataset.history.rate_strength"),
)
KEYS = "report.key"  # columns that ride along: no encoder reads them

CODE = ("sie_spark.features",)
PARTS = ("train", "validation", "test")


def run(ctx: Context) -> StageResult:
    """Split, fit, freeze, transform; the new encoder becomes the current one when its samples are written.

    With ``run.date_from`` / ``run.date_to`` and an encoder of the same settings, only those dates are
    encoded, by that encoder; otherwise the encoder is fitted anew and the whole table written. Where another
    ``report.key`` is all that changed, that encoder writes the whole table.

    Raises
    ------
    ConfigError
        for a column of ``report.key`` that impressions do not have.
    DataError
        for labels of one class, labels other than 0 and 1, or a part without rows.
    """
    with session_settings(ctx.spark, EXPRESSIONS):  # as the earlier stages read expressions
        return _encode(ctx)


def _encode(ctx: Context) -> StageResult:
    source = ctx.catalog.ref("impressions")
    impressions = ctx.catalog.read("impressions", version=source.version)
    keys = _keys(ctx.config.report.key, impressions.columns)
    inputs = {"impressions": source}
    settings = digest([ctx.config.fingerprint(*SETTINGS), code_digest(*CODE)])
    encoder = _reusable(ctx, settings)
    in_part = encoder is not None and _carried(ctx) == {key_column(name) for name in keys}
    dates = (ctx.config.run.date_from, ctx.config.run.date_to) if in_part else (None, None)
    scope = f"{dates[0] or ''}..{dates[1] or ''}" if in_part else ""
    known = ctx.load_details(STAGE) if encoder else {}
    name = known["encoder"] if encoder else None
    fingerprint = ctx.fingerprint(
        STAGE, *SETTINGS, KEYS, code=CODE, impressions=source.content, dates=dates, encoder=name
    )
    stage = f"{STAGE}-{scope}" if scope else STAGE
    earlier = ctx.finished(stage, fingerprint, table="samples", scope=scope)
    if earlier is not None and _opened(ctx, earlier["encoder"]) is not None:
        _settle(ctx, earlier["encoder"])
        outputs = {"samples": ctx.catalog.ref("samples")}
        return StageResult(inputs, outputs, _rows(earlier), _metrics(earlier), earlier, skipped=True)

    where = dates_predicate(dates[0] or "0001-01-01", dates[1] or "9999-12-31") if in_part else None
    if where:
        impressions = impressions.filter(where)
    ctx.progress.say("encode: split and labels")
    cut = Cut.from_dict(encoder.fitted["split"]) if encoder else find_cut(impressions, ctx.config.dataset)
    rows = _labelled(impressions, cut, ctx)
    by_date = count_labels(rows)
    labels = Labels.sum(by_date.values())
    details: dict[str, Any] = {
        "split": cut.as_dict(),
        "labels": labels.as_dict(),
        "labels_by_date": {day: counted.as_dict() for day, counted in by_date.items()},
    }
    details["cautions"] = _cautions(details["labels"])
    labels.check_values()
    if labels.left_out:
        ctx.progress.say(f"encode: left out {labels.left_out}")
    if encoder is None:
        labels.check_training(_source(ctx))
        ctx.progress.say(f"encode: fit on {labels.train:,} training rows")
        encoder, more = _fit(ctx, rows, labels, cut, settings)
        details |= more
        name = encoder.fingerprint
        encoder.write(ctx.root)
        ctx.root.write_bytes(name.encode(), *UNFINISHED)
    elif not in_part:
        details |= {told: known[told] for told in ("selection", "start_vectors") if told in known}
    ctx.progress.say("encode: transform and write")
    encoded = encoder.transform(rows.filter(rows["__keep"]), keep=_kept(rows.columns, keys))
    output = ctx.catalog.replace(
        encoded, "samples", where=where, fingerprint=fingerprint, job=STAGE, scope=scope
    )
    details |= {"encoder": name, "inputs": encoder.inputs.as_dict(), "features": _describe(encoder)}
    if scope:
        ctx.save_details(STAGE, _whole_table(ctx.load_details(STAGE), details, dates))
    ctx.save_details(stage, details, fingerprint=fingerprint)
    _settle(ctx, details["encoder"])
    return StageResult(inputs, {"samples": output}, _rows(details), _metrics(details), details)


@dataclass(frozen=True)
class Labels:
    """Rows by part and label state."""

    counts: dict[tuple[str, str], int]  # (part of PARTS, zero | one | null | immature | other) -> rows

    def of(self, part: str, state: str) -> int:
        """Rows of a part in a state."""
        return self.counts.get((part, state), 0)

    @classmethod
    def sum(cls, parts: Iterable[Labels]) -> Labels:
        """The rows of all parts together."""
        total: Counter[tuple[str, str]] = Counter()
        for part in parts:
            total.update(part.counts)
        return cls(dict(total))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Labels:
        """Inverse of :meth:`as_dict`."""
        return cls({(part, state): rows for part, states in data.items() for state, rows in states.items()})

    @property
    def train(self) -> int:
        """Training rows that stay."""
        return self.of("train", "zero") + self.of("train", "one")

    @property
    def test(self) -> int:
        """Test rows that stay."""
        return self.of("test", "zero") + self.of("test", "one")

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the report."""
        states = ("zero", "one", "null", "immature", "other")
        return {part: {state: self.of(part, state) for state in states} for part in PARTS}

    @property
    def left_out(self) -> str:
        """How many rows have no label, and how many none that is final, in words."""
        words = {"null": "without a label", "immature": "whose label is not final yet"}
        counted = {said: sum(self.of(part, state) for part in PARTS) for state, said in words.items()}
        return ", ".join(f"{rows:,} rows {said}" for said, rows in counted.items() if rows)

    def check_values(self) -> None:
        """Raise where a label is neither 0, 1 nor null."""
        other = sum(self.of(part, "other") for part in PARTS)
        if other:
            raise DataError(
                f"impressions: {other:,} labels are neither 0 nor 1",
                remedy="make the label binary in dataset.columns or dataset.impressions, e.g. cast(clicks > 0 as int)",
            )

    def check_training(self, source: str) -> None:
        """Raise where a fit or an evaluation has nothing to learn or judge from."""
        zero, one = self.of("train", "zero"), self.of("train", "one")
        if not zero or not one:
            only = "no rows" if not zero and not one else f"only label {1 if one else 0}"
            dropped = self._dropped("train")
            raise DataError(
                f"impressions of {source}: the training part has {only} ({zero:,} zeros, {one:,} ones; {dropped})",
                remedy="check the label definition (dataset.label, dataset.impressions), or move the split "
                "(dataset.split.test_fraction, test_from, by)",
            )
        if not self.test:
            raise DataError(
                f"impressions of {source}: no row is left for the test part ({self._dropped('test')})",
                remedy="move the split (dataset.split.test_fraction, test_from or by); where labels are not final,"
                " wait for later events or lower dataset.maturity_hours",
            )

    def _dropped(self, part: str) -> str:
        return f"{self.of(part, 'null'):,} null and {self.of(part, 'immature'):,} immature labels left out"


def count_labels(rows: DataFrame) -> dict[str, Labels]:
    """Rows of each date by part and label state (three small columns, one job)."""
    counted = rows.groupBy("event_date", PART, "__state").count().collect()  # at most fifteen rows a date
    found: dict[str, dict[tuple[str, str], int]] = {}
    for day, part, state, count in counted:
        found.setdefault(str(day), {})[part, state] = int(count)
    return {day: Labels(found[day]) for day in sorted(found)}


def _whole_table(
    earlier: dict[str, Any], part: dict[str, Any], dates: tuple[str | None, str | None]
) -> dict[str, Any]:
    """What the report says of the whole table after some of its dates were encoded anew."""
    first, last = dates[0] or "0001-01-01", dates[1] or "9999-12-31"
    others = {day: counts for day, counts in earlier["labels_by_date"].items() if not first <= day <= last}
    by_date = {**others, **part["labels_by_date"]}
    labels = Labels.sum(Labels.from_dict(counts) for counts in by_date.values())
    counted = labels.as_dict()
    return {
        **earlier,
        "labels": counted,
        "labels_by_date": dict(sorted(by_date.items())),
        "cautions": _cautions(counted),
    }


def _labelled(impressions: DataFrame, cut: Cut, ctx: Context) -> DataFrame:
    """Impressions with their part, the label's state, and whether the row stays."""
    from pyspark.sql import functions as F

    label = F.col("label").cast("double")
    state = (
        F.when(label.isNull(), "null").when(label == 0.0, "zero").when(label == 1.0, "one").otherwise("other")
    )
    if ctx.config.dataset.label_hours > 0:
        immature = cut.is_immature(ctx.config.dataset, impressions.columns)
        state = F.when(immature, "immature").otherwise(state)
    rows = impressions.withColumns({PART: cut.part(), "__state": state})
    return rows.withColumn("__keep", F.col("__state").isin("zero", "one"))


def _fit(
    ctx: Context, rows: DataFrame, labels: Labels, cut: Cut, settings: str
) -> tuple[Encoder, dict[str, Any]]:
    """The encoder, and what selection and factorisation say."""
    dataset = ctx.config.dataset
    features = resolve(dataset.features, rows, strength=dataset.history.rate_strength)
    training = Training(rows.filter((rows[PART] == "train") & rows["__keep"]), labels.train, ctx.root)
    positives = labels.of("train", "one")
    fitted = {"settings": settings, "split": cut.as_dict(), "rows": labels.train, "positives": positives}
    encoder, details = fit(training, features, fitted), dict[str, Any]()
    if dataset.selection.methods:
        ctx.progress.say(f"encode: selection by {', '.join(dataset.selection.methods)}")
        encoder, details["selection"] = select(training, encoder, dataset.selection, dataset.start_vectors)
    if dataset.start_vectors is not None:
        ctx.progress.say("encode: start vectors")
        details["start_vectors"] = fit_start_vectors(training, encoder, dataset.start_vectors, positives)
    return encoder, details


def _keys(asked: Sequence[str], columns: Sequence[str]) -> list[str]:
    """The columns that ride along; raises where impressions do not have one."""
    lacking = [name for name in asked if name not in columns]
    if lacking:
        raise ConfigError(
            f"report.key: impressions have no column {', '.join(map(repr, lacking))}",
            remedy=f"name some of those that there are: {', '.join(sorted(columns))}; an event's own column becomes one by"
            " dataset.impressions.context",
        )
    return list(asked)


def _carried(ctx: Context) -> set[str]:
    """The columns that ride along in the table as it is."""
    return {name for name in ctx.catalog.read("samples").columns if name.startswith(KEY)}


def _kept(columns: Sequence[str], keys: Sequence[str]) -> list[Column]:
    """The columns of ``samples`` beside the encoded ones."""
    from pyspark.sql import functions as F

    def optional(name: str, type_name: str, default: Any = None) -> Column:
        column = F.col(name) if name in columns else F.lit(None)
        return F.coalesce(column.cast(type_name), F.lit(default).cast(type_name)).alias(name)

    group = F.coalesce("group_key", "impression_id") if "group_key" in columns else F.col("impression_id")
    return [
        F.xxhash64("impression_id").alias("sample_id"),
        F.col(PART).alias("split"),
        F.col("event_date"),
        F.col("event_ts"),
        F.xxhash64(group).alias("group_id"),
        (F.xxhash64("list_id") if "list_id" in columns else F.lit(None).cast("bigint")).alias("request_id"),
        optional("position", "int"),
        F.col("label").cast("float").alias("label"),
        optional("sampling_rate", "float", 1.0),
        *[F.col(name).cast("string").alias(key_column(name)) for name in keys],
    ]


def _reusable(ctx: Context, settings: str) -> Encoder | None:
    """The encoder that made the table, when only some dates are asked for and its settings are today's."""
    if ctx.config.run.date_from is None and ctx.config.run.date_to is None:
        return None
    known = ctx.load_details(STAGE)
    if "labels_by_date" not in known or not ctx.catalog.exists("samples"):
        return None
    if ctx.root.exists(*UNFINISHED) or current_name(ctx.root) not in (None, known["encoder"]):
        return None  # a fit that was killed may have left the samples of another encoder
    encoder = _opened(ctx, known["encoder"])
    return encoder if encoder and encoder.fitted.get("settings") == settings else None


def _opened(ctx: Context, name: str) -> Encoder | None:
    """The encoder of a fingerprint, or None where something of it is lost."""
    try:
        encoder = Encoder.load(path_of(ctx.root, name))
    except ModelError:
        return None
    starts = ctx.config.dataset.start_vectors is None or has_start_vectors(ctx.root, name)
    return encoder if starts and encoder.is_whole else None


def _settle(ctx: Context, name: str) -> None:
    """Point to the encoder whose samples are written."""
    set_current(ctx.root, name)
    ctx.root.remove(*UNFINISHED)


def _source(ctx: Context) -> str:
    return ctx.config.dataset.source.path or f"data set '{ctx.config.dataset.name}'"


def _describe(encoder: Encoder) -> list[dict[str, Any]]:
    described = []
    for feature in encoder.features:
        entry: dict[str, Any] = {"name": feature.name, "kind": feature.kind}
        ids = getattr(feature, "ids", None)
        if ids is not None:
            entry |= {"ids": ids.size, "hashed": "hash_size" in ids.as_dict()}
        for name in ("transform", "mean", "scale", "indicator", "width", "explained"):
            if hasattr(feature, name):
                entry[name] = getattr(feature, name)
        described.append(entry)
    return described


def _cautions(labels: dict[str, dict[str, int]]) -> list[str]:
    young = labels.get("test", {}).get("immature", 0)
    return (
        [
            f"{young:,} of the newest rows are in neither part: their outcome may still come,"
            " and a 0 is no negative yet."
        ]
        if young
        else []
    )


def _rows(details: dict[str, Any]) -> Rows:
    labels = details.get("labels", {})
    read = sum(count for part in labels.values() for count in part.values())
    return Rows(read=read, kept=sum(part["zero"] + part["one"] for part in labels.values()))


def _metrics(details: dict[str, Any]) -> dict[str, float]:
    labels, metrics = details.get("labels", {}), {}
    for name in PARTS:
        part = labels.get(name, {})
        rows = part.get("zero", 0) + part.get("one", 0)
        if name == "validation" and not any(part.values()):
            continue  # none was asked for
        metrics[f"rows_{name}"] = float(rows)
        metrics[f"label_rate_{name}"] = part.get("one", 0) / rows if rows else 0.0
    for state in ("null", "immature"):  # read = kept + these
        metrics[f"rows_{state}"] = float(sum(part.get(state, 0) for part in labels.values()))
    return metrics
