"""The streamed top-k of workers against gradients of one row at a time."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional

from helpers.encoded_samples import SPEC, planted_rows
from sie_spark.explanation.neighbours import MARGIN, FindNeighbours, Neighbour, merged
from sie_spark.importance import ModelRef
from sie_spark.importance.contracts import state_to_bytes
from sie_spark.importance.worker import ArtefactRef, Pass
from sie_spark.models import Batch, build_model
from sie_spark.models.store import REFERENCE, load_model, save_model
from sie_spark.platform.config import Importance, Model
from sie_spark.platform.root import Root

DAY = date(2024, 3, 1)
SHOWN = 3
ROWS = 300
SETTINGS = Model(embedding_dim=4, hidden=[8], cross_layers=1)


def encoded() -> pa.Table:
    """Rows of which every third is a copy of another, far from it."""
    frame = planted_rows(ROWS, base=-0.5)
    source = np.where(np.arange(ROWS) % 3 == 0, (np.arange(ROWS) * 7) % (ROWS // 3), np.arange(ROWS))
    frame = frame.iloc[source]
    return pa.table(
        {
            "sample_id": pa.array([1000 - i for i in range(ROWS)], pa.int64()),
            "event_date": pa.array([DAY] * ROWS, pa.date32()),
            "label": pa.array(frame["label"], pa.float32()),
            "cat": pa.array(frame["cat"].tolist(), pa.list_(pa.int32())),
            "dense": pa.array([list(map(float, x)) for x in frame["dense"]], pa.list_(pa.float32())),
        }
    )


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> FindNeighbours:
    root = Root(tmp_path_factory.mktemp("root"))
    model = build_model(SETTINGS, SPEC, seed=0)
    made = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=made))
    along = {name: torch.randn(p.shape, generator=made).numpy() for name, p in model.named_parameters()}
    uri = save_model(root, model, arm=REFERENCE, fingerprint="f", settings=SETTINGS, inputs=SPEC)
    data = state_to_bytes(along)
    artefact = ArtefactRef(
        "explain_direction", root.write_bytes(data, "u.npz"), hashlib.sha256(data).hexdigest()
    )
    reference = ModelRef(REFERENCE, uri, hashlib.sha256(Path(uri).read_bytes()).hexdigest())
    settings = Importance(micro_batch=16)
    return FindNeighbours(Pass((reference,), (reference,), (artefact,), 1, SPEC, settings), SHOWN + MARGIN)


def by_hand(worker: FindNeighbours) -> list[tuple[float, int, int]]:
    """(influence, rows of the pattern, its smallest id), the greatest first."""
    model, _ = load_model(worker.shared.models[0].uri)
    along = worker.shared.artefacts[0].load()
    names, values = zip(*model.named_parameters(), strict=True)
    groups = defaultdict(list)
    table = encoded()
    for row, plain in zip(Batch.from_arrow(table, SPEC).split(1), table.to_pylist(), strict=True):
        loss = functional.binary_cross_entropy_with_logits(model(**row.inputs), row.label)
        grads = torch.autograd.grad(loss, values)
        dot = sum(
            float((g.double() * torch.from_numpy(along[n]).double()).sum())
            for n, g in zip(names, grads, strict=True)
        )
        key = (plain["label"], tuple(plain["cat"]), tuple(plain["dense"]))
        groups[key].append((dot, plain["sample_id"]))
    found = [(rows[0][0], len(rows), min(i for _, i in rows)) for rows in groups.values()]
    return sorted(found, reverse=True)


def found_in(
    worker: FindNeighbours, cuts: list[int], batch: int, order: np.ndarray
) -> list[tuple[int, Neighbour]]:
    """What the partitions between the cuts send."""
    table, found = encoded().take(order), []
    for start, end in pairwise(cuts):
        for sent in worker(iter(table.slice(start, end - start).to_batches(max_chunksize=batch))):
            for row in sent.to_pylist():
                found.append((row.pop("side"), Neighbour(**row)))
    return found


@pytest.mark.parametrize("cuts", [[0, ROWS], [0, 0, 40, 41, 200, ROWS], list(range(0, ROWS + 1, 12))])
@pytest.mark.parametrize("batch", [7, 1000])
def test_the_nearest_rows_are_those_of_brute_force(
    worker: FindNeighbours, cuts: list[int], batch: int
) -> None:
    expected = by_hand(worker)
    assert expected[0][0] > 0 > expected[-1][0] and max(rows for _, rows, _ in expected) > 1
    order = np.random.default_rng(len(cuts)).permutation(ROWS)
    helpful, harmful = merged(found_in(worker, cuts, batch, order), SHOWN)
    for found, right in ((helpful, expected[:SHOWN]), (harmful, expected[::-1][:SHOWN])):
        assert [(one.rows, one.sample_id) for one in found] == [(rows, first) for _, rows, first in right]
        np.testing.assert_allclose([one.value for one in found], [value for value, _, _ in right], rtol=1e-4)
        assert all(one.event_date == DAY and 0 < one.p < 1 for one in found)


def test_a_partition_sends_few_rows(worker: FindNeighbours) -> None:
    assert len(found_in(worker, [0, ROWS], 50, np.arange(ROWS))) == 2 * (SHOWN + MARGIN)


def test_what_helps_is_not_listed_as_harm() -> None:
    rows = [Neighbour(value, 1, i, DAY, 0.0, 0.1, bytes([i])) for i, value in enumerate((3.0, 2.0, -1.0))]
    sent = [(1, one) for one in rows] + [
        (-1, Neighbour(-o.value, 1, o.sample_id, DAY, 0.0, 0.1, o.pattern)) for o in rows
    ]
    helpful, harmful = merged(sent, SHOWN)
    assert [one.sample_id for one in helpful] == [0, 1]
    assert [(one.sample_id, one.value) for one in harmful] == [(2, -1.0)]
