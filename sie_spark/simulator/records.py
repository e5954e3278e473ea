"""What the log shows of the simulated shop: outcomes first, then records, then the damage a log suffers."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sie_spark.platform.config import Simulator
from sie_spark.simulator.draws import below, exponential, uniform
from sie_spark.simulator.world import (
    BOT_CLICK_RATE,
    DEVICES,
    ENDINGS,
    category_name,
    click_probability,
    pick,
    query_text,
)

DWELL_S = 40.0  # longest time from impression to click
FIELDS = (
    "event_id",
    "event_type",
    "ts",
    "user_id",
    "session_id",
    "query_id",
    "query_text",
    "list_id",
    "item_id",
    "category",
    "position",
    "price",
    "device",
)
TRUTH = (
    "event_date",
    "event_ts",
    "list_id",
    "item_id",
    "position",
    "click_probability",
    "true_click",
    "observed_click",
    "purchase",
    "purchase_delay_hours",
    "is_bot",
    "is_fake",
    "is_missed",
    "is_duplicate",
    "is_malformed",
)


def outcomes(shown: DataFrame, settings: Simulator, intercept: float) -> DataFrame:
    """Adds what happened to each impression, and what of it the log will hold.

    ``true_click``: a person clicked. ``is_fake``: a click was logged that nobody made. ``is_missed``: a
    person's click that was not logged. Bots click whatever they are shown at one rate.
    """
    seed, key = settings.seed, (F.col("list"), F.col("item"))
    rate = settings.base_rate
    human = ~F.col("is_bot")
    p = F.when(human, click_probability(intercept)).otherwise(F.lit(0.0))
    fake_rate = min(1.0, settings.fake_clicks * rate / (1.0 - rate))
    clicked = F.col("true_click")
    frame = shown.withColumn("click_probability", p).withColumn(
        "true_click", human & (uniform(seed, "click", *key) < F.col("click_probability"))
    )
    frame = (
        frame.withColumn("is_missed", clicked & (uniform(seed, "missed", *key) < settings.missed_clicks))
        .withColumn("is_fake", human & ~clicked & (uniform(seed, "fake", *key) < fake_rate))
        .withColumn(
            "observed_click",
            (clicked & ~F.col("is_missed"))
            | F.col("is_fake")
            | (~human & (uniform(seed, "bot-click", *key) < BOT_CLICK_RATE)),
        )
    )
    # some items sell better than others; 0.5 + u has mean 1
    willing = F.lit(settings.purchase_rate) * (F.lit(0.5) + uniform(seed, "item/sells", F.col("item")))
    bought = clicked & (uniform(seed, "purchase", *key) < willing)
    delay = exponential(seed, "purchase/delay", settings.purchase_delay_hours, *key)
    return frame.withColumn("purchase", bought).withColumn(
        "purchase_delay_hours", F.when(F.col("purchase"), delay)
    )


def named(frame: DataFrame) -> DataFrame:
    """Numbers become the identifiers and words of a log."""
    return frame.select(
        "*",
        _identifier("u", F.col("user")).alias("user_id"),
        _identifier("s", F.col("session")).alias("session_id"),
        _identifier("q", F.col("query")).alias("query_id"),
        _identifier("l", F.col("list")).alias("list_id"),
        _identifier("i", F.col("item")).alias("item_id"),
        query_text(F.col("query_category"), F.col("query_style"), F.col("query") % F.lit(len(ENDINGS))).alias(
            "query_text"
        ),
        category_name(F.col("category")).alias("category_name"),
        pick(DEVICES, F.col("device")).alias("device_name"),
    )


def records(happened: DataFrame, settings: Simulator) -> DataFrame:
    """One raw record a row: FIELDS, ``day`` (ISO date of the record), ``broken`` (kind or null), ``copies``.

    A purchase after the last simulated day is not in the log: its label is not mature.
    """
    key = (F.col("list"), F.col("item"))
    click_ts = F.col("ts") + (uniform(settings.seed, "dwell", *key) * F.lit(DWELL_S * 1000.0)).cast("bigint")
    buy_ts = click_ts + (F.col("purchase_delay_hours") * F.lit(3_600_000.0)).cast("bigint")
    last = F.unix_timestamp(F.lit(f"{settings.start} 00:00:00"), "yyyy-MM-dd HH:mm:ss") + F.lit(
        settings.days * 86_400
    )
    entries = F.array(
        _entry("impression", F.lit(True), F.col("ts")),
        _entry("click", F.col("observed_click"), click_ts),
        _entry("purchase", F.col("purchase") & (buy_ts < last * F.lit(1000)), buy_ts),
    )
    # exploded while the rows are narrow numbers; a filter inside the array would leave generated code
    frame = named(happened.withColumn("entry", F.explode(entries)).filter("entry.there"))
    frame = frame.withColumn(
        "event_id",
        F.concat(
            F.col("list_id"),
            F.lit("-"),
            F.col("position"),
            F.lit("-"),
            F.substring(F.col("entry.type"), 1, 1),
        ),
    )
    day = F.date_format(F.timestamp_millis(F.col("entry.at")), "yyyy-MM-dd")
    return frame.select(
        "event_id",
        F.col("entry.type").alias("event_type"),
        F.col("entry.at").alias("ts"),
        *[F.col(name) for name in ("user_id", "session_id", "query_id", "query_text", "list_id", "item_id")],
        F.col("category_name").alias("category"),
        "position",
        "price",
        F.col("device_name").alias("device"),
        day.alias("day"),
        broken_kind(F.col("event_id"), settings).alias("broken"),
    ).withColumn("copies", copies(F.col("event_id"), F.col("broken"), settings))


def lines(logged: DataFrame, settings: Simulator) -> DataFrame:
    """``day`` and ``value`` (one JSON line), duplicates written twice, broken records broken."""
    whole = F.to_json(F.struct(*[F.col(name) for name in FIELDS]))
    if settings.malformed > 0:
        text = (
            F.when(F.col("broken") == 0, F.expr("substring(text, 1, int(length(text) * 0.6))"))
            .when(F.col("broken") == 1, F.regexp_replace("text", '"ts":[0-9]+', '"ts":"yesterday"'))
            .when(F.col("broken") == 2, F.regexp_replace("text", '"item_id":"[^"]*",', ""))
            .when(F.col("broken") == 3, F.regexp_replace("text", '"price":', '"price":-'))
            .when(F.col("broken") == 4, F.regexp_replace("text", '"event_type":"', '"event_type":"un'))
            .otherwise(F.col("text"))
        )
    else:
        text = F.col("text")
    frame = logged.withColumn("text", whole).select("day", text.alias("value"), "copies")
    if settings.duplicates > 0:
        frame = frame.withColumn("copy", F.explode(F.sequence(F.lit(1), F.col("copies"))))
    return frame.select("day", "value")


def truth(happened: DataFrame, settings: Simulator) -> DataFrame:
    """One impression a row: what nobody but a test or an evaluation of detection may read (no user id)."""
    moment = F.timestamp_millis(F.col("ts"))
    frame = named(happened).withColumn("event_ts", moment).withColumn("event_date", F.to_date(moment))
    event_id = F.concat(F.col("list_id"), F.lit("-"), F.col("position"), F.lit("-i"))
    broken = broken_kind(event_id, settings)
    frame = frame.withColumn("is_malformed", broken.isNotNull())
    return frame.withColumn("is_duplicate", copies(event_id, broken, settings) > 1).select(*TRUTH)


def broken_kind(event_id: Column, settings: Simulator) -> Column:
    """Which damage a record suffers (0 cut short, 1 no time, 2 no item, 3 price below 0, 4 unknown type)."""
    hit = uniform(settings.seed, "malformed", event_id) < settings.malformed
    return F.when(hit, below(uniform(settings.seed, "malformed/kind", event_id), 5).cast("int"))


def copies(event_id: Column, broken: Column, settings: Simulator) -> Column:
    """How often a record is written: twice for a duplicate; a broken record is written once."""
    twice = broken.isNull() & (uniform(settings.seed, "duplicate", event_id) < settings.duplicates)
    return F.when(twice, F.lit(2)).otherwise(F.lit(1))


def _entry(kind: str, there: Column, at: Column) -> Column:
    return F.struct(F.lit(kind).alias("type"), F.coalesce(there, F.lit(False)).alias("there"), at.alias("at"))


def _identifier(prefix: str, number: Column) -> Column:
    return F.concat(F.lit(prefix), number.cast("string"))
