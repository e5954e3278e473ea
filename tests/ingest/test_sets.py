"""Rules on their own: what a set of values takes for one of its members."""

import pytest

from sie_spark.ingest.rules import violation
from sie_spark.platform.config import Rule
from sie_spark.platform.tables import EXPRESSIONS, session_settings

LARGE = "12345678901234567890"  # beyond 2**53: with its neighbour one and the same double


def broken(spark, type_: str, value: str, values: list[str]) -> bool:
    rule = Rule(column="x", check="set", values=values)
    frame = spark.sql(f"SELECT CAST('{value}' AS {type_}) AS x")
    kinds = {field.name: field.dataType.simpleString() for field in frame.schema}
    with session_settings(spark, EXPRESSIONS):
        return bool(frame.select(violation(rule, {"x": frame["x"]}, kinds)).first()[0])


@pytest.mark.spark
@pytest.mark.parametrize(
    ("type_", "value", "members", "others"),
    [
        ("decimal(20,0)", LARGE, [LARGE, f"{LARGE}.00", "1.2345678901234567890e19"], [LARGE[:-1] + "1"]),
        ("decimal(38,4)", f"{LARGE}.5", [f"{LARGE}.50"], [f"{LARGE}.5001", LARGE]),
        ("decimal(10,1)", "1.6", ["1.6", "1.60", "0016e-1"], ["1.55", "1.64", "16e99", "word", "NaN", ""]),
        ("decimal(10,1)", "0", ["-0.0", "0"], []),
        ("double", "1.5", ["1.50", "15e-1"], ["1.500000000000001", "word"]),
        ("double", "0.1", ["0.1"], ["0.10000000149011612"]),
        ("float", "0.1", ["0.1", "0.10"], ["0.2"]),
        ("double", "NaN", ["NaN"], ["0"]),
        ("bigint", LARGE[:18], [LARGE[:18]], [LARGE[:17] + "0", f"{LARGE[:18]}.0"]),
        ("string", "1.50", ["1.50"], ["1.5"]),
    ],
)
def test_a_set_compares_fractions_by_value_in_their_own_type(
    spark, type_: str, value: str, members: list[str], others: list[str]
) -> None:
    assert not [one for one in members if broken(spark, type_, value, ["7", one])]
    assert [one for one in others if broken(spark, type_, value, ["7", one])] == others
    assert broken(spark, type_, value, [])
