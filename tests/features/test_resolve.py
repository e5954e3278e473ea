"""An expression is a feature only where every row answers it alone, by what is known when it is shown."""

import os
import subprocess
import sys
import textwrap

import pytest

from helpers.impressions_table import frame, rows
from sie_spark.features.resolve import resolve
from sie_spark.platform.config import Feature
from sie_spark.platform.errors import ConfigError

pytestmark = pytest.mark.spark


def test_what_is_no_value_of_one_row_is_refused(spark) -> None:  # type: ignore[no-untyped-def]
    table = frame(spark, rows(1))

    def resolved(expression: str | None, column: str = "price", kind: str = "number") -> str:
        feature = Feature(column=column, name="mine", kind=kind, expression=expression)  # type: ignore[arg-type]
        return resolve([feature], table)[0].type_name

    refused = {
        "no value of one row alone": [
            *("min(price) over ()", "avg(price)", "price - avg(price) over (partition by user_id)"),
            *("explode(array(price))", "rand()", "price + randn(3)", "hash(uuid())"),
            "aggregate(transform(tags, t -> rand()), 0D, (a, b) -> a + b)",
        ],
        "reads the clock": [
            *("unix_seconds(now())", "year(current_date)", "UNIX_TIMESTAMP( ) - 1"),
            *("year(`now`())", "/* ' */ year(now()) /* ' */", "year(current_date/**/())", "year(now--'\n())"),
            *("year(date 'today')", "hour(timestamp 'now')", "hour(TIMESTAMP_NTZ\n' Tomorrow ')"),
            *("year(date /* a day */ r'yesterday')", 'year(date "today")', "hour(timestamp 'today CET')"),
            *("datediff('today', event_date) AS days", "int(event_ts < 'now')", "year(cast('now' as date))"),
            *("int(title = 'today' and event_ts < 'today')", "year('today'::date)", "year(to_date('today'))"),
            "size(split(title, '{')) + year(date 'today')",
        ],
        "holds a query": ["(select 1)", "price in (SELECT 1D)", "exists(select 1)", "(table prices)"],
        "reads label, which nobody knows": ["label", "1 - LABEL", "coalesce(price, `label`)"],
        "reads click, conversion,": ["click + conversion"],
        "reads label_mature": ["cast(label_mature as int)"],
        "reads sampling_rate": ["1 / sampling_rate"],
        "PARSE_SYNTAX_ERROR": ["price +"],
        "cannot be resolved": ["prise + 1", "min(prise) over ()"],
    }
    for message, expressions in refused.items():
        for expression in expressions:
            with pytest.raises(ConfigError, match=message) as error:
                resolved(expression)
            assert "'mine'" in str(error.value)
            assert error.value.remedy
    for column in ("label", "click"):
        with pytest.raises(ConfigError, match=f"reads {column}"):
            resolved(None, column)
    for expression in (
        *("price * 2", "price / (price - price)", "named_struct('label', price).label", "hour(event_ts)"),
        *("size(transform(tags, click -> click))", "instr(title, 'select now() from label')"),
        *("unix_timestamp(event_ts)", "length(trim(from title))", "size(split(title, 'l'))"),
        *("int(title = 'today')", "int(title in ('now', '{tomorrow}'))", "instr(title, 'Today CET')"),
        *("int(title ilike 'now')", "year(date 'epoch')", "unix_date(date '2024-03-01')"),
    ):
        assert resolved(expression) in ("double", "int", "bigint")
    assert resolved("if(exists(tags, tag -> tag = 'pool'), 'now()', 'click')", kind="category") == "string"


def test_the_same_through_spark_connect(connect: str) -> None:
    code = """
        from pyspark.sql import SparkSession
        from sie_spark.features.resolve import resolve
        from sie_spark.platform.config import Feature
        from sie_spark.platform.errors import ConfigError
        spark = SparkSession.builder.getOrCreate()
        table = spark.sql("select 1D price, 0D label")
        for expression in (
            "price + 1", "min(price) over ()", "avg(price)", "rand()", "label", "price +", "year(date 'today')"
        ):
            try:
                print(resolve([Feature(column="price", kind="number", expression=expression)], table)[0].type_name)
            except ConfigError as error:
                print(error)
    """
    said = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "SPARK_REMOTE": connect},
    ).stdout.splitlines()
    expected = ["double", *["no value of one row alone"] * 3, "reads label", "PARSE_SYNTAX_ERROR"]
    expected.append("reads the clock")
    assert len(said) == len(expected)
    for line, part in zip(said, expected, strict=True):
        assert part in line
