"""The encoder under a root, as stage encode leaves it."""

from __future__ import annotations

from sie_spark.features.encoder import Encoder, current_name, path_of, set_current
from sie_spark.platform.root import Root


def keep(encoder: Encoder, root: Root) -> tuple[str, str]:
    """Write an encoder and make it the current one; its fingerprint and its path."""
    path = encoder.write(root)
    set_current(root, encoder.fingerprint)
    return encoder.fingerprint, path


def current(root: Root) -> Encoder | None:
    """The current encoder, or None before the first fit."""
    name = current_name(root)
    return Encoder.load(path_of(root, name)) if name else None
