"""Small logs made by hand, and the settings that read them."""

import json
from pathlib import Path
from typing import Any

COLUMNS = (
    "id STRING, kind STRING, ts BIGINT, user STRING, session STRING, item STRING, price DOUBLE, step INT"
)
DAY = 86_400
START = 1_709_251_200  # 2024-03-01 00:00 UTC


def settings(path: Path, **dataset: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "name": "log",
        "source": {"path": str(path), "format": "json", "columns": COLUMNS},
        "event_time": {"expression": "ts", "format": "epoch_seconds"},
        "columns": {
            "event_type": "kind",
            "seq": "step",
            "user_id": "user",
            "session_id": "session",
            "item_id": "item",
            "price": "price",
            "key": "id",
        },
        "event_key": ["key"],
        "tolerate": 1,  # of a few records one is a large share
    }
    base["source"].update(dataset.pop("source", {}))
    return {"dataset": {**base, **dataset}}


def event(id: str, **values: Any) -> dict[str, Any]:
    base = {
        "id": id,
        "kind": "view",
        "ts": START,
        "user": "ann",
        "session": "s1",
        "item": "i1",
        "price": 1.5,
        "step": 1,
    }
    return {**base, **values}


def write(file: Path, *records: Any) -> Path:
    """One line a record; a str or bytes is written as it stands."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        for record in records:
            line = record if isinstance(record, (str, bytes)) else json.dumps(record)
            stream.write((line if isinstance(line, bytes) else line.encode()) + b"\n")
    return file


def rows(frame: Any) -> list[dict[str, Any]]:
    return [row.asDict(recursive=True) for row in frame.collect()]
