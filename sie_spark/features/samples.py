"""How later stages read what ``encode`` left: the rows of a part, and the inputs their encoder promised."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from sie_spark.features.encoder import UNFINISHED, current_name, path_of
from sie_spark.platform.context import Context
from sie_spark.platform.errors import StageOrderError
from sie_spark.platform.inputs import InputSpec
from sie_spark.platform.root import read_bytes

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


Part = Literal["train", "validation", "test"]


def split_rows(ctx: Context, version: int, part: Part) -> DataFrame:
    """The encoded rows of a part; no fit, score or weight looks at those of ``test``."""
    return part_rows(ctx, version, [part])


def part_rows(ctx: Context, version: int, parts: Sequence[str]) -> DataFrame:
    """The encoded rows of several parts."""
    chosen = ", ".join(f"'{part}'" for part in parts)
    return ctx.catalog.read("samples", version=version).where(f"split IN ({chosen})")


def encoder(ctx: Context) -> tuple[str, InputSpec]:
    """Fingerprint and inputs of the encoder that made the samples.

    Raises
    ------
    StageOrderError
        when no encoder has been fitted, its file is lost, or samples were not written to the end.
    """
    fingerprint = current_name(ctx.root)
    if fingerprint is None:
        raise StageOrderError(
            f"no encoder under {ctx.root.uri}", remedy="run 'sie encode' first, or 'sie run' for all stages"
        )
    known = ctx.load_details("encode").get("encoder", fingerprint)
    if known != fingerprint or ctx.root.exists(*UNFINISHED):
        raise StageOrderError(
            f"encoder {fingerprint} is not that of the samples under {ctx.root.uri}: 'sie encode' was cut short",
            remedy="run 'sie encode' again, or 'sie run' for all stages",
        )
    try:
        artefact = json.loads(read_bytes(path_of(ctx.root, fingerprint)))
        return fingerprint, InputSpec.from_dict(artefact["inputs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageOrderError(
            f"encoder {path_of(ctx.root, fingerprint)}: {type(error).__name__} while reading",
            remedy="run 'sie encode' again, or 'sie run' for all stages",
        ) from None
