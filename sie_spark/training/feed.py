"""Batches for one rank, straight from Parquet: shuffled, equal in number on every rank, resumable.

The permuted rows of an epoch are cut into lanes; global batch k takes the k-th piece of every lane, and a rank
owns some of the lanes. So the batches do not depend on the number of ranks (unequal numbers hang collective
training), and a run stopped at step k goes on at step k with another number of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from sie_spark.models import Batch
from sie_spark.platform.errors import DataError
from sie_spark.platform.inputs import InputSpec
from sie_spark.platform.root import locate
from sie_spark.platform.sampling_rate import SamplingRate
from sie_spark.training.manifest import Manifest, Shard

LANES = 4
READ_ROWS = 65_536


class Feed:
    """The batches of one rank.

    Parameters
    ----------
    manifest, spec:
        where the rows lie and how they are encoded.
    batch_size:
        rows of a global batch; a rank gets ``batch_size / world`` of them.
    shuffle_rows:
        rows that one rank holds decoded at most; shuffling happens inside blocks of a quarter of it.
    lanes:
        of the checkpoint that is continued; default 4, or ``world`` where 4 cannot be divided by it.
    """

    def __init__(
        self,
        manifest: Manifest,
        spec: InputSpec,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        shuffle_rows: int = 200_000,
        lanes: int | None = None,
        rate: SamplingRate | None = None,
    ) -> None:
        self.manifest, self.spec, self.seed, self.batch_size = manifest, spec, seed, batch_size
        self.name = manifest.hash
        self.lanes = lanes if lanes and lanes % world == 0 else (LANES if LANES % world == 0 else world)
        if manifest.rows < self.lanes:
            raise DataError(
                f"{manifest.rows} rows are too few to train on",
                remedy="keep more rows: raise weighting.budget or pilot.fraction, or read more data",
            )
        share = self.lanes // world
        self.own = range(rank * share, (rank + 1) * share)
        self.block = max(1, shuffle_rows // LANES)
        self.rate = rate or SamplingRate()
        rows = manifest.rows
        self.starts = [rows * lane // self.lanes for lane in range(self.lanes + 1)]
        sizes = [past - first for first, past in pairwise(self.starts)]
        # no lane may run dry before the last step
        self.steps = min(math.ceil(max(sizes) / max(1, batch_size // self.lanes)), *sizes)

    def rows_before(self, step: int) -> int:
        """Rows of the whole epoch, over all ranks, in batches before ``step``."""
        return sum(self._cut(lane, step) for lane in range(self.lanes))

    def global_rows(self, step: int) -> int:
        """Rows of global batch ``step``."""
        return self.rows_before(step + 1) - self.rows_before(step)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """This rank's batches of one epoch, ``start .. steps - 1``."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.manifest.shards))
        shards = [self.manifest.shards[index] for index in order]
        streams = [self._lane(lane, epoch, shards, start) for lane in self.own]
        for _ in range(start, self.steps):
            yield Batch.concat([next(stream) for stream in streams])

    def _cut(self, lane: int, step: int) -> int:
        return (self.starts[lane + 1] - self.starts[lane]) * step // self.steps

    def _lane(self, lane: int, epoch: int, shards: list[Shard], start: int) -> Iterator[Batch]:
        """Pieces of one lane, each shuffled within its block of the lane."""
        done = self._cut(lane, start)
        number, skip = divmod(done, self.block)
        blocks = self._blocks(lane, shards, number)
        held: list[Batch] = []
        for step in range(start, self.steps):
            want = self._cut(lane, step + 1) - self._cut(lane, step)
            while sum(len(part) for part in held) < want:
                block = next(blocks)
                order = np.random.default_rng([self.seed, epoch, lane, number]).permutation(len(block))
                held.append(block.take(torch.from_numpy(order[skip:])))
                number, skip = number + 1, 0
            joined = Batch.concat(held) if len(held) > 1 else held[0]
            yield joined.take(slice(0, want))
            held = [joined.take(slice(want, None))]

    def _blocks(self, lane: int, shards: list[Shard], number: int) -> Iterator[Batch]:
        """Blocks ``number ..`` of a lane, in reading order."""
        first, past = self.starts[lane] + number * self.block, self.starts[lane + 1]
        held: list[pa.Table] = []
        have = 0
        for table in self._rows(shards, first, past):
            rest = table
            while have + rest.num_rows >= self.block:
                part = rest.slice(0, self.block - have)
                yield _decode(pa.concat_tables([*held, part]), self.spec, self.rate)
                rest, held, have = rest.slice(part.num_rows), [], 0
            if rest.num_rows:
                held.append(rest)
                have += rest.num_rows
        if have:
            yield _decode(pa.concat_tables(held), self.spec, self.rate)

    def _rows(self, shards: list[Shard], first: int, past: int) -> Iterator[pa.Table]:
        """Arrow tables of rows ``first .. past - 1`` of the permuted shards; others are not opened."""
        at = 0
        for shard in shards:
            low, high = max(first - at, 0), min(past - at, shard.rows)
            at += shard.rows
            if low >= high:
                continue
            seen = 0
            for table in read_shard(shard, self.manifest, self._columns):
                a, b = max(low - seen, 0), min(high - seen, table.num_rows)
                seen += table.num_rows
                if a < b:
                    yield table.slice(a, b - a)
                if seen >= high:
                    break

    @property
    def _columns(self) -> list[str]:
        empty = {"cat"} if not self.spec.categories else set()
        empty |= {"dense"} if not self.spec.numbers else set()
        wanted = [name for name in self.spec.columns if name not in empty]
        extra = ["sampling_rate"] if self.rate.weight_by_rate else []
        return [*wanted, "label", "offset", "weight", "sample_id", *extra]


def read_shard(shard: Shard, manifest: Manifest, columns: list[str]) -> Iterator[pa.Table]:
    """The used rows of one row group, in file order; columns that the file lacks are passed over."""
    filesystem, path = locate(shard.path)
    with filesystem.open_input_file(path) as source:
        file = pq.ParquetFile(source)
        present = [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(
            batch_size=READ_ROWS, row_groups=[shard.row_group], columns=present, use_threads=False
        ):
            table = pa.Table.from_batches([batch])
            if manifest.draw is not None:
                kept = manifest.draw.keeps(table.column("sample_id").to_numpy())
                table = table.filter(pa.array(kept))
            yield table


def _decode(table: pa.Table, spec: InputSpec, rate: SamplingRate) -> Batch:
    batch = Batch.from_arrow(table, spec)
    if rate.weight_by_rate:
        rates = pc.cast(table.column("sampling_rate"), pa.float32()).to_numpy().copy()
        batch = replace(batch, weight=batch.weight / torch.from_numpy(rates))
    if rate.offset:
        batch = replace(batch, offset=batch.offset + rate.offset)
    return batch
