"""Why lines cannot be parsed: every setting that is named follows from the lines; and examples name nobody."""

import json
import re

import pytest

from sie_spark.ingest.examples import masked
from sie_spark.ingest.unparsed import diagnosis
from sie_spark.platform.config import Source

CSV = Source(format="csv", options={"header": "true"})
JSON = Source(format="json")
RECORDS = [{"user": f"ann{n}", "price": n, "tags": ["a", {"b": n}]} for n in range(8)]


@pytest.mark.parametrize(
    ("lines", "source", "fields", "said"),
    [
        # a quoted field over two, and over four lines
        (['1,"a', 'b",2', '3,"c', 'd",4'], CSV, 3, "multiLine: 'true'"),
        (['1,"a', "b", "c", 'd",2'] * 5, CSV, 3, "multiLine: 'true'"),
        (['1,"say ""hi""', '""",2'] * 3, CSV, 3, "multiLine: 'true'"),
        # ragged lines, quoted or not, are no such thing; nor is one quote more
        (["1,2,3,4", "1,2,3,4,5", "1,2,3,4,5,6", "1,2,3,4"], CSV, 3, "from 4 to 6, mostly 4, fields, where its header names 3"),
        (['"a","b","c","d"'] * 9, CSV, 3, "4 fields, where its header names 3"),
        (["1,2", *['5" pipe,2'] * 9], CSV, 3, "2 fields"),
        (["1,2"] * 30 + ['1,"a'], CSV, 3, "2 fields"),
        (["1,2"] * 9, Source(format="csv", columns="a INT, b INT, c INT"), 3, "columns declares 3: declare every"),
        (["a,b"] * 9, CSV, 0, "^$"),
        # other separators, another format, another way to write quotes
        (["1;2;3", "4;5;6"], CSV, 3, 'options.sep: ";"'),
        (["1\t2\t3"] * 4, CSV, 3, r'options.sep: "\\t"'),
        ([json.dumps(one) for one in RECORDS], CSV, 3, "format: json"),
        ([r'1,"5\" pipe",3'] * 4, CSV, 3, r"escape: '\\'"),
        (["", "  "], CSV, 3, "the lines are empty"),
        # JSON that is not one object a line
        (json.dumps(RECORDS, indent=1).splitlines(), JSON, 0, "spread over several lines.*jq"),
        ("\n".join(json.dumps(one, indent=2) for one in RECORDS).splitlines(), JSON, 0, "spread over several lines"),
        (["[" + json.dumps(RECORDS[0]) + ",", *[json.dumps(one) + "," for one in RECORDS]], JSON, 0, "elements of an array"),
        ([json.dumps(RECORDS)], JSON, 0, "elements of an array"),
        ([json.dumps(one) * 2 for one in RECORDS], JSON, 0, "several objects stand on a line"),
        (["1,2,3"] * 9, JSON, 0, "format: csv"),
        (["base64:/w=="] * 4, JSON, 0, "encoding: ISO-8859-1"),
        (['{"id": "cut'] * 4, JSON, 0, "^$"),
        ([], JSON, 0, "^$"),
    ],
)  # fmt: skip
def test_a_setting_is_named_where_the_lines_say_so(
    lines: list, source: Source, fields: int, said: str
) -> None:
    found = diagnosis(lines, source, fields)
    assert re.search(said, found), found
    assert "multiLine" in said or "multiLine" not in found


def test_an_example_shows_the_shape_and_names_nobody() -> None:
    assert masked('{"user": "Ann-7", "at": null, "ok": true') == '{"xxxx": "xxx-9", "xx": null, "xx": true'
    assert masked("müller@example.org;+49 170 1") == "xxxxxx@xxxxxxx.xxx;+99 999 9"
    assert masked("base64:/w==") == "bytes that are not UTF-8"
    assert len(masked("x" * 500)) < 70
