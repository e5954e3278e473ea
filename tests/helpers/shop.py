"""A shop whose log tells what was shown, clicked and bought as events of their own."""

from helpers.logs import rows

SHOP = {
    "columns": {
        "event_type": "kind",
        "seq": "step",
        "user_id": "user",
        "session_id": "session",
        "item_id": "item",
        "list_id": "session",
        "key": "id",
    },
    "impressions": {
        "event": "event_type = 'shown'",
        "list_id": "list_id",
        "click_event": {
            "event": "event_type = 'click'",
            "match": ["session_id", "item_id"],
            "window_hours": 1,
        },
        "conversion_event": {
            "event": "event_type = 'buy'",
            "match": ["user_id", "item_id"],
            "window_hours": 48,
        },
    },
    "history": {"types": ["click"], "session": False, "rates": ["item_id"], "rate_strength": 2.0},
    "maturity_hours": 48,
    "group": "user_id",
}


def read_shop(ctx) -> dict[str, dict]:
    keys = {row["event_id"]: row["key"] for row in rows(ctx.catalog.read("events"))}
    return {keys[row["event_id"]]: row for row in rows(ctx.catalog.read("impressions"))}
