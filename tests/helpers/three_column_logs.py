"""Logs of a time, a user and an item, in columns t, u and i, and the settings that read them."""

from pathlib import Path


def config(path: Path | str, **dataset: object) -> dict:
    base = {
        "name": "odd",
        "source": {"path": str(path), **dataset.pop("source", {})},
        "event_time": {"expression": "t"},
        "columns": {"event_type": "'view'", "user_id": "u", "item_id": "i", **dataset.pop("columns", {})},
        "tolerate": 1,  # of a few records one is a large share
    }
    return {"dataset": {**base, **dataset}}


def view(second: int, **values: object) -> dict:
    return {"t": f"2024-03-01T05:00:{second:02}", "u": "u1", "i": "a", **values}
