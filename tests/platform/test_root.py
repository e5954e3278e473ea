"""Whatever a root is called, it is one and the same place to Spark, SQL, Arrow and MLflow, or it is refused."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import fs

from helpers.command_line import last_line
from sie_spark.cli import main
from sie_spark.platform import root as rooms
from sie_spark.platform.errors import PlatformError
from sie_spark.platform.root import Root, decoded, locate, read_bytes

ODD = [
    "exp #1",
    "50%",
    "ü ö",
    "日本",
    "it's",
    'a"b',
    "12:30",
    "a@v1",
    "a=b",
    "a&b;c",
    "a,b+c$d",
    "~x",
    " lead",
    "(1)|<2>",
]


@pytest.mark.parametrize("name", ODD)
def test_a_root_of_any_name_keeps_its_files(name: str, tmp_path: Path) -> None:
    root = Root(tmp_path / name)
    written = root.write_bytes(b"here", "state", "a #%20?.json")
    assert Path(written) == tmp_path / name / "state" / "a #%20?.json"
    assert Path(written).read_bytes() == read_bytes(written) == read_bytes(f"file:{written}") == b"here"
    assert root.exists("state", "a #%20?.json") and root.entries() == ["state"]
    assert Root(f"file:{tmp_path}/{name}".replace("%", "%25")).uri == root.uri
    assert sorted(os.listdir(tmp_path)) == [name]


@pytest.mark.parametrize("name", ["exp:1", "at 12:30/x"])
def test_a_colon_makes_no_object_store(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = Root(name)
    assert root.is_local and root.uri == str(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["exp?2", "a*", "a[1]", "a]", "{x}", "${x}", "a`b", "a\\b", "a\nb", "a%20b", "a%2Fb"]
)
@pytest.mark.parametrize("where", ["{tmp}/{name}", "s3://bucket/{name}"])
def test_a_name_that_others_would_read_otherwise_is_refused_before_work(
    name: str, where: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--root", where.format(tmp=tmp_path, name=name)]) == 1
    said = last_line(capfd)
    assert (
        "--root" in said["error"] and "has '" in said["error"] and "choose a name without" in said["remedy"]
    )
    assert not list(tmp_path.iterdir())


def test_spark_says_of_a_file_in_codes_what_was_written_in_letters(tmp_path: Path) -> None:
    path = tmp_path / "exp #1 50% ü"
    path.write_text("x")
    assert read_bytes(decoded(path.as_uri())) == b"x"


@pytest.mark.parametrize("scheme", ["gs", "abfs"])
def test_an_object_store_takes_a_name_letter_by_letter(scheme: str) -> None:
    authority = {"gs": "bucket", "abfs": "bucket@account.dfs.core.windows.net"}[scheme]
    _, name = locate(f"{scheme}://{authority}/exp #1/50%/a?.json")
    assert name == "bucket/exp #1/50%/a?.json"


@pytest.mark.parametrize("there", [(), ("runs",), ("runs", "one")])
@pytest.mark.parametrize("remote", [False, True])
def test_a_trial_leaves_nothing(
    there: tuple[str, ...], remote: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "store" / "runs" / "one")
    if remote:  # a bucket that is a folder
        uri, store = "s3://store/runs/one", fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
        monkeypatch.setattr(rooms, "locate", lambda path: (store, path.removeprefix("s3://")))
    (tmp_path / "store").joinpath(*there).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with Root(uri, make=False).trial() as trial:
        (tmp_path / "store/runs/one").joinpath(trial.uri.rpartition("/")[2], "table").mkdir(parents=True)
        assert trial.entries() == ["table"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_trial_removes_nothing_of_another_job(tmp_path: Path) -> None:
    root = Root(tmp_path / "new", make=False)
    with root.trial():
        root.write_bytes(b"x", "tables", "events")
    assert (tmp_path / "new" / "tables" / "events").read_bytes() == b"x"


def test_a_home_that_is_not_known_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlatformError, match="--root ~nobody_of_that_name"):
        Root("~nobody_of_that_name/x")


@pytest.mark.spark
def test_spark_sql_and_arrow_find_the_tables_of_a_root_of_an_odd_name(
    make_context: Any, tmp_path: Path
) -> None:
    """What torch reads of a table is what Spark wrote there, and a merge finds it; nothing lies beside the root."""
    from sie_spark.training.feed import read_shard
    from sie_spark.training.manifest import build_manifest

    place = tmp_path / 'exp #1: 50% of ü, it\'s "a=b" @v1'
    catalog = make_context({"dataset": {"name": "d", "columns": {"label": "y"}}}, root=place).catalog
    split = "IF(id < 6, 'train', 'test') AS split"
    frame = catalog.spark.range(8).selectExpr("id AS sample_id", split, "DATE'2024-01-02' AS event_date")
    assert catalog.replace(frame, "samples", fingerprint="f", job="test").rows == 8
    manifest = build_manifest(catalog.read("samples").where("split = 'train'"))
    tables = [table for s in manifest.shards for table in read_shard(s, manifest, ["sample_id"])]
    assert sorted(pa.concat_tables(tables)["sample_id"].to_pylist()) == [0, 1, 2, 3, 4, 5]
    catalog.spark.range(7, 10).createOrReplaceTempView("more")
    catalog.spark.sql(
        f"MERGE INTO {catalog.sql_name('samples')} t USING more s ON t.sample_id = s.id WHEN NOT MATCHED THEN INSERT"
        " (sample_id, split, event_date) VALUES (s.id, 'test', DATE'2024-01-02')"
    ).collect()
    assert catalog.version("samples") == 1 and catalog.ref("samples").path == f"{place}/tables/samples"
    assert catalog.read("samples").count() == 10
    assert [path.name for path in tmp_path.iterdir()] == [place.name]
