"""The feed: every row once an epoch, equal batch counts, the same batches at any number of ranks, resumable."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.encoded_samples import SPEC, planted_rows
from helpers.sample_files import small_manifest, write_files
from sie_spark.platform.draws import Draw, uniform
from sie_spark.platform.errors import DataError
from sie_spark.platform.sampling_rate import SamplingRate
from sie_spark.training.feed import Feed
from sie_spark.training.manifest import Manifest, Shard


def feeds(manifest: Manifest, world: int, **options: object) -> list[Feed]:
    return [
        Feed(manifest, SPEC, batch_size=256, seed=3, rank=rank, world=world, **options)  # type: ignore[arg-type]
        for rank in range(world)
    ]


def ids_by_step(
    manifest: Manifest, world: int, *, epoch: int = 0, start: int = 0, **options: object
) -> list[set[int]]:
    streams = [feed.epoch(epoch, start=start) for feed in feeds(manifest, world, **options)]
    return [{int(i) for batch in step for i in batch.sample_id} for step in zip(*streams, strict=True)]


def test_every_row_once_and_in_another_order_each_epoch(tmp_path: Path) -> None:
    manifest = small_manifest(tmp_path)
    epochs = [[int(i) for batch in feeds(manifest, 1)[0].epoch(e) for i in batch.sample_id] for e in (0, 1)]
    for order in epochs:
        assert sorted(order) == list(range(5300))
    assert epochs[0] != epochs[1]
    # shuffled: the correlation of position and id is that of chance
    assert abs(np.corrcoef(np.arange(5300), epochs[0])[0, 1]) < 0.2


@pytest.mark.parametrize("world", [2, 4, 3])
def test_ranks_get_equal_counts_and_all_rows(tmp_path: Path, world: int) -> None:
    manifest = small_manifest(tmp_path)
    found = feeds(manifest, world)
    assert len({feed.steps for feed in found}) == 1
    steps = ids_by_step(manifest, world)  # zip(strict=True) fails where counts differ
    assert len(steps) == found[0].steps
    assert set().union(*steps) == set(range(5300)) and sum(map(len, steps)) == 5300
    assert [found[0].global_rows(k) for k in range(found[0].steps)] == [len(step) for step in steps]


@pytest.mark.parametrize("world", [2, 4])
def test_global_batches_do_not_depend_on_the_number_of_ranks(tmp_path: Path, world: int) -> None:
    manifest = small_manifest(tmp_path)
    assert ids_by_step(manifest, world, shuffle_rows=2000) == ids_by_step(manifest, 1, shuffle_rows=2000)


@pytest.mark.parametrize("start", [1, 7, 20])
def test_resume_in_the_middle_of_an_epoch(tmp_path: Path, start: int) -> None:
    manifest = small_manifest(tmp_path)
    options = {"shuffle_rows": 1000}
    assert ids_by_step(manifest, 2, start=start, **options) == ids_by_step(manifest, 1, **options)[start:]


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(4, 5000), batch=st.integers(1, 700), world=st.sampled_from([1, 2, 3, 4, 6, 8]))
def test_cuts_leave_no_rank_without_rows(rows: int, batch: int, world: int) -> None:
    manifest = Manifest((Shard("none", 0, rows),))
    lanes = 4 if 4 % world == 0 else world
    if rows < lanes:
        with pytest.raises(DataError):
            Feed(manifest, SPEC, batch_size=batch, seed=0, world=world)
        return
    feed = Feed(manifest, SPEC, batch_size=batch, seed=0, world=world)
    for lane in range(feed.lanes):
        cuts = [feed._cut(lane, step) for step in range(feed.steps + 1)]
        assert all(b > a for a, b in pairwise(cuts))
    assert feed.rows_before(feed.steps) == rows


def test_many_small_files(tmp_path: Path) -> None:
    manifest = write_files(tmp_path, planted_rows(600), [3] * 200)
    assert set().union(*ids_by_step(manifest, 2)) == set(range(600))


def test_draw_reads_the_sampled_rows_only(tmp_path: Path) -> None:
    manifest = small_manifest(tmp_path)
    draw = Draw(0.3, 5, "pilot")
    kept = uniform(np.arange(5300), seed=5, purpose="pilot") < 0.3
    sizes, starts = [s.rows for s in manifest.shards], np.cumsum([0, *(s.rows for s in manifest.shards)])
    drawn = Manifest(
        tuple(
            Shard(s.path, s.row_group, int(kept[a : a + n].sum()))
            for s, a, n in zip(manifest.shards, starts, sizes, strict=False)
        ),
        draw,
    )
    assert set().union(*ids_by_step(drawn, 2)) == set(np.flatnonzero(kept).tolist())


def test_sampling_rate_becomes_weight_or_offset(tmp_path: Path) -> None:
    frame = planted_rows(400)
    frame["sampling_rate"] = np.where(frame["label"] > 0, 1.0, 0.25).astype(np.float32)
    manifest = write_files(tmp_path, frame, [400])
    by_weight = next(
        Feed(manifest, SPEC, batch_size=400, seed=0, rate=SamplingRate(weight_by_rate=True)).epoch(0)
    )
    assert set(by_weight.weight[by_weight.label > 0].tolist()) <= {1.0}
    assert set(by_weight.weight[by_weight.label == 0].tolist()) == {4.0}
    by_offset = next(Feed(manifest, SPEC, batch_size=400, seed=0, rate=SamplingRate(offset=1.5)).epoch(0))
    assert set(by_offset.offset.tolist()) == {1.5} and set(by_offset.weight.tolist()) == {1.0}


def test_manifest_round_trip_and_hash(tmp_path: Path) -> None:
    manifest = small_manifest(tmp_path)
    assert Manifest.from_json(manifest.to_json()) == manifest
    fewer = Manifest(manifest.shards[:-1])
    assert Manifest.from_json(fewer.to_json()).hash == fewer.hash != manifest.hash
    assert Manifest(manifest.shards, Draw(0.5, 1, "pilot")).hash != manifest.hash
