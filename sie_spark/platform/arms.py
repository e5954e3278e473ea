"""The arms that are compared, in the order in which they are shown, and what people call them."""

from __future__ import annotations

TITLES = {"full": "all rows", "weighted": "important rows, corrected", "random": "random rows"}
