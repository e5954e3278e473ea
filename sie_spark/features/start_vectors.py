"""First values for the embedding tables of sparse users and items: a matrix factorisation of who clicked what.

Truncated SVD of the degree-normalised user x item matrix of training clicks (Dhillon 2001), on the driver
and bounded: it needs neither Spark ML nor a classic session. An id without a click gets the mean vector.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds

from sie_spark.features.encoder import Encoder, current_name
from sie_spark.features.fit import Training
from sie_spark.features.hashing import unit_interval
from sie_spark.features.identifiers import Category
from sie_spark.platform.config import StartVectors
from sie_spark.platform.errors import DataError
from sie_spark.platform.root import Root, read_bytes


def fit_start_vectors(
    training: Training, encoder: Encoder, settings: StartVectors, positives: int
) -> dict[str, Any]:
    """Factorise, and write ``encoders/start_<fingerprint of the encoder>.npz``.

    Parameters
    ----------
    positives:
        clicked training rows, which bound the pairs read.

    Returns
    -------
    dict
        report: path, pairs read, users and items with a vector, share of the matrix's energy kept.

    Raises
    ------
    DataError
        when there are too few users or items to factorise.
    """
    from pyspark.sql import functions as F

    pair = _pair(encoder, settings)
    sizes = pair.inputs.categories[settings.user], pair.inputs.categories[settings.item]
    clicked = training.rows.filter(F.col("label") == 1)
    cat = F.col("cat")
    pairs = pair.transform(clicked).select(cat[0].alias("user"), cat[1].alias("item"))
    pairs = pairs.filter((F.col("user") > 0) & (F.col("item") > 0))
    if positives > settings.pairs:
        pairs = pairs.filter(unit_interval("user", F.lit("factorise")) < settings.pairs / positives)
    counted = pairs.groupBy("user", "item").count()
    # a sample can have more than was asked for: those of the rarest ids go, the same in every run
    table = counted.orderBy("user", "item").limit(settings.pairs).toArrow()
    rows, columns, counts = (np.asarray(table[name].to_numpy()) for name in ("user", "item", "count"))
    found, energy = factorise(rows, columns, counts, sizes, settings.components)
    names = (settings.user, settings.item)
    vectors = {name: _finish(vector, settings.scale) for name, vector in zip(names, found, strict=True)}
    path = _save(training.root, encoder.fingerprint, vectors)
    known = [int((np.abs(vector).sum(axis=1) > 0).sum()) for vector in found]
    return {
        "path": path,
        "method": "truncated SVD of degree-normalised clicks",
        "pairs": int(table.num_rows),
        "users": known[0],
        "items": known[1],
        "components": settings.components,
        "energy": round(energy, 4),
    }


def factorise(
    rows: np.ndarray, columns: np.ndarray, counts: np.ndarray, sizes: tuple[int, int], components: int
) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """User and item vectors [size, components] (zeros where an id has no pair) and the energy kept.

    Worked example: two users who click the same items have equal rows up to the counts, hence vectors of the
    same direction.
    """
    order = np.lexsort((columns, rows))
    weights = np.log1p(counts[order].astype(np.float64))
    matrix = sparse.csr_matrix((weights, (rows[order], columns[order])), shape=sizes)
    by_user, by_item = (np.asarray(matrix.sum(axis=axis)).ravel() for axis in (1, 0))
    left, right = (sparse.diags_array(_inverse_root(degree)) for degree in (by_user, by_item))
    normal = (left @ matrix @ right).tocsr()
    present = min(int((by_user > 0).sum()), int((by_item > 0).sum()))
    kept = min(components, present - 1)
    if kept < 1:
        raise DataError(
            f"start vectors: the training clicks join only {present} user(s) or item(s) of the vocabulary",
            remedy="lower min_count of the two categories, or leave out dataset.start_vectors",
        )
    start = np.full(
        min(normal.shape), 1.0 / np.sqrt(min(normal.shape))
    )  # a fixed start: the same vectors every time
    u, singular, vt = svds(normal, k=kept, v0=start)
    largest = np.argsort(-singular)
    u, singular, v = u[:, largest], singular[largest], vt[largest].T
    signs = np.sign(v[np.abs(v).argmax(axis=0), np.arange(kept)])
    root = np.sqrt(singular) * np.where(signs == 0, 1.0, signs)
    energy = float((singular**2).sum() / max((normal.data**2).sum(), 1e-300))
    pad = [(0, 0), (0, components - kept)]
    # the solver leaves rounding errors where there is no pair
    users, items = u * root * (by_user > 0)[:, None], v * root * (by_item > 0)[:, None]
    return (np.pad(users, pad), np.pad(items, pad)), energy


def _inverse_root(degree: np.ndarray) -> np.ndarray:
    return np.where(degree > 0, 1.0 / np.sqrt(np.maximum(degree, 1e-12)), 0.0)


def _finish(vectors: np.ndarray, scale: float) -> np.ndarray:
    """float32 rows of length ``scale * sqrt(components)``; ids without a click get the mean row."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    known = length[:, 0] > 0
    unit = vectors / np.where(length > 0, length, 1.0) * scale * np.sqrt(vectors.shape[1])
    unit[~known] = unit[known].mean(axis=0)
    return unit.astype(np.float32)


def _pair(encoder: Encoder, settings: StartVectors) -> Encoder:
    """An encoder of the user and the item alone: the settings name two categories, and selection keeps them."""
    categories = {feature.name: feature for feature in encoder.features if isinstance(feature, Category)}
    return Encoder((categories[settings.user], categories[settings.item]))


def _save(root: Root, encoder: str, vectors: dict[str, np.ndarray]) -> str:
    buffer = io.BytesIO()
    save: Callable[..., None] = np.savez_compressed
    save(buffer, **vectors)
    return root.write_bytes(buffer.getvalue(), *_place(encoder))


def _place(encoder: str) -> tuple[str, str]:
    return "encoders", f"start_{encoder}.npz"


def has_start_vectors(root: Root, encoder: str) -> bool:
    """Whether they were fitted with the encoder of this fingerprint."""
    return root.exists(*_place(encoder))


def load_start_vectors(root: Root) -> dict[str, np.ndarray]:
    """Category -> float32 [ids, components] for its embedding table: those of the current encoder.

    An empty dict where none were fitted with it.
    """
    name = current_name(root)
    if name is None or not has_start_vectors(root, name):
        return {}
    with np.load(io.BytesIO(read_bytes(root.path(*_place(name))))) as archive:
        return {name: archive[name] for name in archive.files}
