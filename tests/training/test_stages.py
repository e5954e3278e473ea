"""Stages ``train`` and ``retrain`` over Delta: manifest, pilot sample, two ranks, skipping, errors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from helpers.encoded_samples import planted_rows, settings, write_samples
from sie_spark.features.samples import split_rows
from sie_spark.models.store import current_model, load_model
from sie_spark.platform.draws import Draw, uniform
from sie_spark.platform.errors import DataError, ModelError, PlatformError, StageOrderError
from sie_spark.platform.root import locate
from sie_spark.platform.sampling_rate import correction_of
from sie_spark.platform.workers import task_slots
from sie_spark.training import distributed, retrain, train
from sie_spark.training.arms import base_logit, table_facts
from sie_spark.training.distributed import check_cluster
from sie_spark.training.manifest import Shard, build_manifest

pytestmark = pytest.mark.spark


def first_id(shard: Shard) -> int:
    filesystem, path = locate(shard.path)
    return int(pq.read_table(path, filesystem=filesystem, columns=["sample_id"])["sample_id"][0].as_py())


def test_manifest_of_many_small_files(make_context: Any, tmp_path: Path) -> None:
    context = make_context(settings(), root=tmp_path / "a root, 50% full")
    write_samples(context, planted_rows(900), test_rows=100, files=12)
    frame = split_rows(context, 0, "train")
    manifest = build_manifest(frame)
    assert manifest.rows == 800 and len(manifest.shards) >= 30  # 12 tasks, 3 days
    draw = Draw(0.3, 7, "pilot")
    drawn = build_manifest(frame, draw=draw)
    ids = frame.select("sample_id").toPandas()["sample_id"].to_numpy()
    assert drawn.rows == int((uniform(ids, seed=7, purpose="pilot") < 0.3).sum()) < 320


def test_manifest_order_does_not_depend_on_file_names(make_context: Any, tmp_path: Path) -> None:
    orders = []
    for name in ("one", "two"):
        context = make_context(settings(), root=tmp_path / name)
        write_samples(context, planted_rows(900), files=4)
        manifest = build_manifest(split_rows(context, 0, "train"))
        orders.append(
            [(shard.path.rsplit("/", 2)[-2], shard.rows, first_id(shard)) for shard in manifest.shards]
        )
    assert orders[0] == orders[1]


def test_a_filter_inside_files_and_deletion_vectors_are_refused(make_context: Any) -> None:
    context = make_context(settings())
    write_samples(context, planted_rows(600))
    with pytest.raises(PlatformError, match="holds"):
        build_manifest(split_rows(context, 0, "train").where("position < 10"))
    with pytest.raises(DataError):
        build_manifest(split_rows(context, 0, "train").where("event_date > '2030-01-01'"))
    name = context.catalog.sql_name("samples")
    context.spark.sql(f"ALTER TABLE {name} SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")
    context.spark.sql(f"DELETE FROM {name} WHERE position = 3")
    with pytest.raises(PlatformError, match="deletion vectors") as caught:
        build_manifest(split_rows(context, context.catalog.version("samples"), "train"))
    assert "REORG" in caught.value.remedy


def test_facts_and_base_logit(make_context: Any) -> None:
    context = make_context(settings())
    frame = planted_rows(3000)
    frame.loc[frame["label"] == 0, "sampling_rate"] = 0.5
    write_samples(context, frame)
    facts = table_facts(split_rows(context, 0, "train"), "full")
    assert facts.rows == 3000 and facts.rate.offset == pytest.approx(0.6931, abs=1e-4)
    # the logged rate is sigmoid(b + log 2): b is the log-odds before negatives were dropped
    rate = frame["label"].mean()
    assert base_logit(facts) == pytest.approx(math.log(rate / (1 - rate) / 2), abs=1e-4)
    assert correction_of(0.2, 0.5, 1.0, 1.0).weight_by_rate


def test_one_class_is_refused(make_context: Any) -> None:
    context = make_context(settings())
    frame = planted_rows(300)
    frame["label"] = 0.0
    write_samples(context, frame)
    with pytest.raises(DataError, match="label 0"):
        train.run(context)


def test_order_of_stages(make_context: Any) -> None:
    context = make_context(settings())
    with pytest.raises(StageOrderError):
        train.run(context)


def test_reference_with_two_ranks_then_skipped_then_full_is_the_same_model(
    make_context: Any, tmp_path: Path
) -> None:
    """The one test that starts TorchDistributor."""
    config = settings(training={"distributed": True, "processes": 2, "epochs": 3}, arms={"random": None})
    context = make_context(config)
    write_samples(context, planted_rows(4000), test_rows=500)
    result = train.run(context)
    found = result.details["arms"]["reference"]
    assert found["processes"] == 2 and found["rows"] == 3500 and found["epochs"] == 3
    assert found["loss"][0] > found["loss"][-1]
    assert not result.skipped and train.run(context).skipped
    assert train.run(context).metrics == result.metrics
    # upkeep makes versions too, and changes no row
    name = context.catalog.sql_name("samples")
    context.spark.sql(f"ALTER TABLE {name} SET TBLPROPERTIES ('note' = 'kept')")
    assert context.catalog.version("samples") == 1 and train.run(context).skipped

    model, spec = load_model(current_model(context.root, "reference").path)  # type: ignore[union-attr]
    assert len(spec.categories) == 2 and not model.training
    # in place, one process: the same fit
    alone = make_context(
        settings(training={"distributed": False, "processes": 2, "epochs": 3}), root=tmp_path / "b"
    )
    write_samples(alone, planted_rows(4000), test_rows=500)
    assert train.run(alone).metrics["reference_loss"] == pytest.approx(
        result.metrics["reference_loss"], rel=1e-4
    )

    rows = split_rows(context, 0, "train")
    from pyspark.sql import functions as F

    subset = rows.withColumn("pi", F.lit(1.0)).withColumn("offset", F.lit(0.0).cast("float"))
    subset = subset.withColumn("weight", F.lit(1.0).cast("float")).withColumn("arm", F.lit("weighted"))
    context.catalog.replace(subset, "training_set", fingerprint="x", job="test")
    again = make_context(
        settings(training={"distributed": False, "processes": 2, "epochs": 3}, arms={"random": None})
    )
    assert train.run(again).skipped is False  # other training settings: another fingerprint
    done = retrain.run(again)
    assert done.details["arms"]["full"]["same_as"] == "reference"
    assert done.details["arms"]["weighted"]["loss"] == pytest.approx(
        done.details["arms"]["full"]["loss"], rel=1e-9
    )
    assert set(done.details["arms"]) == {"weighted", "full"} and retrain.run(again).skipped


def test_what_a_rank_raised_reaches_the_user(make_context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    context = make_context(settings())
    folder = ("models", "full", "f")
    said = {"kind": "DataError", "error": "encoded column 'cat' is missing", "remedy": "run 'sie encode'"}
    context.root.write_bytes(json.dumps(said).encode(), *folder, "error.json")
    error = distributed._failure(context.root, folder, RuntimeError("Command failed"))
    assert isinstance(error, DataError) and error.remedy == "run 'sie encode'"
    text = "x\nTraceback (most recent call last):\n  File y\nConnectionError: refused\ny"
    other = distributed._failure(context.root, ("models", "none"), RuntimeError(text))
    assert isinstance(other, ModelError) and "ConnectionError: refused" in str(other)


def test_cluster_is_checked_before_waiting(spark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert task_slots(spark) == 2
    check_cluster(spark, 2, local=False)
    with pytest.raises(PlatformError, match="SPARK-24819"):
        check_cluster(spark, 64, local=False)

    class Dynamic:
        class conf:
            @staticmethod
            def get(key: str, default: str = "") -> str:
                return "true" if key == "spark.dynamicAllocation.enabled" else default

    with pytest.raises(PlatformError, match="SPARK-24942"):
        check_cluster(Dynamic, 2, local=False)  # type: ignore[arg-type]
