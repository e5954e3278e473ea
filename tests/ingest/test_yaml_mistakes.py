"""What a person gets wrong in the YAML of a log: said with its setting, and what to write instead."""

from pathlib import Path

import pytest

from helpers.logs import write
from helpers.three_column_logs import config
from sie_spark.ingest import ingest
from sie_spark.platform.errors import SieError

pytestmark = pytest.mark.spark


@pytest.mark.parametrize(
    ("settings", "said", "remedy"),
    [
        ({"source": {"options": {"header": "true"}}}, "no column 'u'", 'source.options.sep: ";"'),
        (
            {"event_time": {"expression": "time"}},
            "which dataset.event_time.expression needs",
            "'y', 't'|t, u",
        ),
        (
            {"event_time": {"expression": "t +"}},
            "^dataset.event_time.expression: 't \\+' is not",
            "correct the",
        ),
        ({"sampling_rate": "rate"}, "no column 'rate', which dataset.sampling_rate needs", "columns there"),
        (
            {"event_time": {"expression": "t", "format": "yyyy-MM-dd"}},
            "every one of 30",
            "event_time: its exp",
        ),
        (
            {"event_time": {"expression": "y", "format": "epoch_seconds"}},
            "every one of 30",
            "event_time.format",
        ),
        (
            {"columns": {"label": "y + 1"}},
            "every one of 30 records have an outcome .*'label:not 0 or 1', where y [+] 1 is 3.0",
            "dataset.columns.label: cast(coalesce((y + 1) > 0, false) AS DOUBLE)",
        ),
        ({"sampling_rate": "25"}, "every one of 30", "percent / 100"),
    ],
)
def test_a_mistake_names_its_setting(make_context, tmp_path: Path, settings, said, remedy) -> None:
    log = write(tmp_path / "log.csv", "t;u;i;y", *[f"{at % 28 + 1:02}.03.2025;u{at};a;2" for at in range(30)])
    base = {"kind": "impressions", "event_time": {"expression": "t", "format": "dd.MM.yyyy"}}
    columns = {"label": "y - 2", **settings.get("columns", {})}
    source = {"format": "csv", "options": {"header": "true", "sep": ";"}, **settings.get("source", {})}
    ctx = make_context(config(log, **{**base, **settings, "columns": columns, "source": source}))
    with pytest.raises(SieError, match=said) as error:
        ingest.run(ctx)
    assert any(part in error.value.remedy for part in remedy.split("|"))


def labelled(log: Path, source: dict) -> dict:
    columns = {"event_ts": "t", "label": "y"}
    source = {"path": str(log), **source}
    return {"dataset": {"name": "odd", "kind": "impressions", "columns": columns, "source": source}}


def test_a_label_of_another_type_is_blamed_on_its_source_column(make_context, tmp_path: Path) -> None:
    # as pandas writes whole numbers among which one is missing
    log = write(
        tmp_path / "log.csv", "t,y", *[f"2025-03-{at % 28 + 1:02},1.0" for at in range(29)], "2025-03-01,"
    )
    source = {"format": "csv", "options": {"header": "true"}, "columns": "t STRING, y INT"}
    ctx = make_context(labelled(log, source))
    with pytest.raises(SieError, match="29 of 30 records .96.7 %. cannot be read.*'type:y'") as error:
        ingest.run(ctx)
    assert "declare 'y'" in error.value.remedy and "DOUBLE" in error.value.remedy


def test_files_in_folders_below_are_said_to_be_there(make_context, tmp_path: Path) -> None:
    write(tmp_path / "log" / "monday" / "a.csv", "t,y", "2025-03-01,1")
    source = {"format": "csv", "options": {"header": "true"}}
    with pytest.raises(SieError, match="files lie in folders below") as error:
        ingest.run(make_context(labelled(tmp_path / "log", source)))
    assert "recursiveFileLookup" in error.value.remedy


def test_folders_beside_files_are_said_to_be_passed_over(make_context, tmp_path: Path, monkeypatch) -> None:
    write(tmp_path / "log" / "a.csv", "t,y", "2025-03-01,1")
    write(tmp_path / "log" / "monday" / "b.csv", "t,y", "2025-03-02,1")
    for looked, kept, warned in ((None, 1, True), ("false", 1, False), ("true", 2, False)):
        options = {"header": "true"} | ({"recursiveFileLookup": looked} if looked else {})
        source = {"format": "csv", "options": options}
        ctx = make_context(labelled(tmp_path / "log", source), root=tmp_path / f"root-{looked}")
        said: list[str] = []
        monkeypatch.setattr(ctx.progress, "warn", said.append)
        assert ingest.run(ctx).rows.kept == kept
        assert any("1 files in folders below are not read" in text for text in said) == warned


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_header_of_another_encoding(make_context, tmp_path: Path, encoding: str) -> None:
    log = tmp_path / "log.csv"
    log.write_bytes("t,u,i,größe\n2024-03-01,u1,a,5\n".encode(encoding))
    source = {"format": "csv", "options": {"header": "true"}}
    with pytest.raises(SieError, match="no column") as error:
        ingest.run(make_context(config(log, source=source, columns={"size": "`größe`"})))
    assert "set source.options.encoding" in error.value.remedy


def test_columns_that_are_no_ddl_say_why(make_context, tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "2024-03-01,u1,a")
    source = {"format": "csv", "columns": "t STRING, u STRING, i NUMBER"}
    with pytest.raises(SieError, match="is not valid DDL: .*NUMBER"):
        ingest.run(make_context(config(log, source=source)))
