"""The simulated shop: who searches, what is shown where, and how likely a genuine click is.

A click needs two things, as in the examination hypothesis (Richardson et al. 2007): the position is
examined, and the item appeals. Appeal has first-order parts a linear model finds (item, price, device)
and products that only an interaction model finds (query x category, query style x item style, user
segment x category, device x category, user x price), plus a daily random walk of each item.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from sie_spark.platform.bisection import solve_increasing
from sie_spark.platform.config import Simulator
from sie_spark.platform.errors import ConfigError
from sie_spark.simulator.draws import below, gauss, uniform, zipf

CATEGORIES = ("shoes", "jackets", "bags", "watches", "lamps", "chairs", "books", "games", "phones", "tents")
STYLES = ("red", "light", "classic", "cheap", "sport", "vintage", "kids", "compact")
ENDINGS = ("", "sale", "new", "best", "near me", "online")
DEVICES = ("phone", "desktop", "tablet")
SEGMENTS = 6
# six consecutive lists are cut into sessions by one of these patterns: first list of the session of list k
SESSION_STARTS = (
    (0, 0, 0, 0, 0, 0),
    (0, 0, 0, 3, 3, 3),
    (0, 1, 1, 3, 3, 3),
    (0, 0, 2, 2, 2, 2),
    (0, 1, 2, 2, 4, 4),
)
BLOCK = 6
LIST_GAP_S, LIST_JITTER_S = 150, 90
LAST_START_S = 23 * 3600  # a session ends before midnight

# standard deviations of the parts of the logit
ITEM, USER = 0.5, 0.3
DEVICE_CATEGORY, SEGMENT_CATEGORY, USER_CATEGORY = 1.0, 0.6, 0.2
USER_PRICE, USER_ITEM = 0.4, 0.2
CATEGORY_MATCH, STYLE_MATCH, PRICE = 2.0, 0.6, -0.25  # logits added
BOT_CLICK_RATE = 0.3
PILOT_LISTS = 2000


@dataclass(frozen=True)
class Shape:
    """Sizes that follow from the settings."""

    lists: int
    blocks: int
    categories: int

    @classmethod
    def of(cls, settings: Simulator) -> Shape:
        """Raises ConfigError when a list could not hold distinct items."""
        if settings.list_length > settings.items:
            raise ConfigError(
                f"simulator.list_length {settings.list_length} exceeds simulator.items {settings.items}",
                remedy="show fewer items a list, or simulate more items",
            )
        lists = math.ceil(settings.impressions / settings.list_length)
        return cls(lists, math.ceil(lists / BLOCK), min(len(CATEGORIES), settings.items))


def impressions(spark: SparkSession, settings: Simulator, *, every: int = 1) -> DataFrame:
    """One shown item a row, before any click: who, when, what, where, ``affinity`` and ``examination``.

    Parameters
    ----------
    every:
        keep each ``every``-th list only: the pilot.
    """
    shape = Shape.of(settings)
    rows = math.ceil(settings.impressions / every)
    partitions = min(max(math.ceil(rows / 100_000), 2), 4096)
    lists = spark.range(0, shape.lists, every, partitions).withColumnRenamed("id", "list")
    return (
        lists.transform(lambda frame: _with_session(frame, settings, shape))
        .transform(lambda frame: _with_query(frame, settings, shape))
        .transform(lambda frame: _with_items(frame, settings, shape))
        .transform(lambda frame: _with_affinity(frame, settings))
    )


def solve_intercept(spark: SparkSession, settings: Simulator) -> float:
    """The logit at which people click on ``base_rate`` of what they are shown, from a fixed-size pilot.

    The pilot comes back as a histogram of the affinity (bins of 1/20), so a few hundred numbers are solved
    by bisection here.

    Raises
    ------
    ConfigError
        when even a sure click on every examined item would stay below the base rate.
    """
    pilot = impressions(spark, settings, every=max(1, Shape.of(settings).lists // PILOT_LISTS))
    binned = pilot.filter(~F.col("is_bot")).groupBy(F.round(F.col("affinity") * 20).alias("bin"))
    rows = binned.agg(
        F.sum("examination").alias("examined"), F.count("*").alias("rows")
    ).collect()  # a row a bin
    total = sum(row["rows"] for row in rows)

    def rate(intercept: float) -> float:
        clicks = (row["examined"] / (1.0 + math.exp(-row["bin"] / 20.0 - intercept)) for row in rows)
        return float(sum(clicks)) / max(total, 1)

    low, high = -20.0, 20.0
    if not rate(low) < settings.base_rate < rate(high):
        raise ConfigError(
            f"simulator.base_rate {settings.base_rate} cannot be reached: positions are examined too rarely",
            remedy=f"choose a base rate below {rate(high):.3f}, or a smaller simulator.position_bias",
        )
    return solve_increasing(rate, settings.base_rate, low, high)


def click_probability(intercept: float) -> Column:
    """P(genuine click | shown): examined and appealing."""
    return F.col("examination") * _sigmoid(F.col("affinity") + F.lit(intercept))


def category_name(category: Column) -> Column:
    """The word for a category number."""
    return pick(CATEGORIES, category)


def query_text(category: Column, style: Column, ending: Column) -> Column:
    """What the user typed."""
    return F.trim(F.concat_ws(" ", pick(STYLES, style), pick(CATEGORIES, category), pick(ENDINGS, ending)))


def _with_session(frame: DataFrame, settings: Simulator, shape: Shape) -> DataFrame:
    """Adds session, is_bot, user, device, day (0-based) and ts (epoch ms)."""
    seed = settings.seed
    block, offset = F.floor(F.col("list") / F.lit(BLOCK)), F.col("list") % F.lit(BLOCK)
    starts = F.array(*[F.lit(start) for pattern in SESSION_STARTS for start in pattern])
    pattern = below(uniform(seed, "session/pattern", block), len(SESSION_STARTS))
    start = F.element_at(starts, (pattern * F.lit(BLOCK) + offset + F.lit(1)).cast("int"))
    session = (block * F.lit(BLOCK) + start).alias("session")
    day = F.floor(block * F.lit(settings.days) / F.lit(shape.blocks)).alias("day")
    framed = frame.select("list", session, (offset - start).alias("step"), day)

    is_bot = uniform(seed, "session/bot", F.col("session")) < F.lit(settings.bots)
    pool = max(1, round(settings.users * settings.bots / 5))  # few ids, each of them busy
    bot = F.lit(settings.users) + below(uniform(seed, "session/bot-id", F.col("session")), pool)
    person = zipf(uniform(seed, "session/user", F.col("session")), settings.users, settings.zipf, shift=20.0)
    framed = framed.withColumn("is_bot", is_bot).withColumn("user", F.when(is_bot, bot).otherwise(person))

    usual = uniform(seed, "user/device", F.col("user"))
    today = F.when(
        uniform(seed, "session/other-device", F.col("session")) < 0.15,
        uniform(seed, "session/device", F.col("session")),
    )
    device = F.coalesce(today, usual)
    second = (
        uniform(seed, "session/morning", F.col("session"))
        + uniform(seed, "session/evening", F.col("session"))
    ) / 2.0
    wait = F.col("step") * F.lit(LIST_GAP_S) + uniform(seed, "list/wait", F.col("list")) * F.lit(
        LIST_JITTER_S
    )
    moment = second * F.lit(LAST_START_S) + wait
    origin = F.unix_timestamp(F.lit(f"{settings.start} 00:00:00"), "yyyy-MM-dd HH:mm:ss")
    return framed.withColumn("device", F.when(device < 0.6, 0).when(device < 0.9, 1).otherwise(2)).withColumn(
        "ts", ((origin + F.col("day") * F.lit(86_400) + moment) * F.lit(1000.0)).cast("bigint")
    )


def _with_query(frame: DataFrame, settings: Simulator, shape: Shape) -> DataFrame:
    """Adds query, query_category, query_style; a session mostly stays with its query."""
    seed = settings.seed
    stays = uniform(seed, "list/stays", F.col("list")) < 0.6
    draw = F.when(stays, uniform(seed, "session/query", F.col("session"))).otherwise(
        uniform(seed, "list/query", F.col("list"))
    )
    return (
        frame.withColumn("query", zipf(draw, settings.queries, settings.zipf, shift=1.0))
        .withColumn(
            "query_category", below(uniform(seed, "query/category", F.col("query")), shape.categories)
        )
        .withColumn("query_style", below(uniform(seed, "query/style", F.col("query")), len(STYLES)))
    )


def _with_items(frame: DataFrame, settings: Simulator, shape: Shape) -> DataFrame:
    """Explodes each list into its distinct items, ranked by a noisy popularity as a real ranker would."""
    seed, length, categories = settings.seed, settings.list_length, shape.categories
    per_category = math.ceil(settings.items / categories)

    def candidate(slot: Column) -> Column:
        keys = (F.col("list"), slot)
        on_topic = uniform(seed, "slot/on-topic", *keys) < 0.7
        other = below(uniform(seed, "slot/category", *keys), categories)
        category = F.when(on_topic, F.col("query_category")).otherwise(other)
        rank = zipf(uniform(seed, "slot/item", *keys), per_category, settings.zipf, shift=3.0)
        return (rank * F.lit(categories) + category) % F.lit(settings.items)

    def ranked(item: Column) -> Column:
        noise = gauss(seed, "list/rank", F.col("list"), item)
        return F.struct(-(F.lit(0.5) * _item_appeal(seed, item) + noise).alias("key"), item.alias("item"))

    drawn = F.transform(F.sequence(F.lit(0), F.lit(2 * length - 1)), candidate)
    # should the draws repeat themselves too often, neighbours of a random item fill the list
    first = below(uniform(seed, "list/fill", F.col("list")), settings.items)
    fill = F.transform(
        F.sequence(F.lit(0), F.lit(length - 1)), lambda slot: (first + slot) % F.lit(settings.items)
    )
    shown = F.slice(F.array_distinct(F.concat(drawn, fill)), 1, length)
    rows = frame.withColumn("shown", F.array_sort(F.transform(shown, ranked)))
    exploded = rows.select("*", F.posexplode("shown").alias("place", "entry")).drop("shown")
    return (
        exploded.withColumn("item", F.col("entry.item"))
        .withColumn("position", (F.col("place") + F.lit(1)).cast("int"))
        .drop("entry", "place")
        .filter(F.col("list") * F.lit(length) + F.col("position") <= F.lit(settings.impressions))
    )


def _with_affinity(frame: DataFrame, settings: Simulator) -> DataFrame:
    """Adds category, price, affinity (logit without intercept) and examination."""
    seed, item, user = settings.seed, F.col("item"), F.col("user")
    with_item = frame.withColumn("category", item % F.lit(Shape.of(settings).categories)).withColumn(
        "dearness", gauss(seed, "item/price", item)
    )
    category = F.col("category")
    segment = below(uniform(seed, "user/segment", user), SEGMENTS)
    style = below(uniform(seed, "item/style", item), len(STYLES))
    walk = F.lit(0.0)
    if settings.drift > 0 and settings.days > 1:
        steps = F.sequence(F.lit(1).cast("bigint"), F.col("day"))
        walked = F.aggregate(
            steps, F.lit(0.0), lambda total, day: total + gauss(seed, "item/drift", item, day)
        )
        walk = F.when(F.col("day") > 0, walked * F.lit(settings.drift)).otherwise(F.lit(0.0))
    affinity = (
        _item_appeal(seed, item)
        + walk
        + F.lit(PRICE) * F.col("dearness")
        + F.lit(USER) * gauss(seed, "user/eager", user)
        + F.lit(USER_PRICE) * gauss(seed, "user/price", user) * F.col("dearness")
        + F.lit(SEGMENT_CATEGORY) * gauss(seed, "segment/category", segment, category)
        + F.lit(USER_CATEGORY) * gauss(seed, "user/category", user, category)
        + F.lit(USER_ITEM) * gauss(seed, "user/item", user, item)
        + F.lit(DEVICE_CATEGORY) * gauss(seed, "device/category", F.col("device"), category)
        + F.when(category == F.col("query_category"), F.lit(CATEGORY_MATCH)).otherwise(F.lit(0.0))
        + F.when(style == F.col("query_style"), F.lit(STYLE_MATCH)).otherwise(F.lit(0.0))
    )
    return (
        with_item.withColumn("affinity", affinity)
        .withColumn("price", F.round(F.exp(F.lit(3.5) + F.lit(0.7) * F.col("dearness")), 2))
        .withColumn("examination", F.pow(F.col("position").cast("double"), F.lit(-settings.position_bias)))
        .drop("dearness")
    )


def _item_appeal(seed: int, item: Column) -> Column:
    return F.lit(ITEM) * gauss(seed, "item/appeal", item)


def _sigmoid(logit: Column) -> Column:
    return F.lit(1.0) / (F.lit(1.0) + F.exp(-logit))


def pick(words: tuple[str, ...], index: Column) -> Column:
    """The word at a 0-based index."""
    return F.element_at(F.array(*[F.lit(word) for word in words]), (index + F.lit(1)).cast("int"))
