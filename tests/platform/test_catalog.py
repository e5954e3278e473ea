"""What the commits of a table say of its rows, without a look at the table."""

from sie_spark.platform.catalog import rows_said

MADE = ("CREATE TABLE", {}, {})
TEN = ("WRITE", {"mode": "Overwrite"}, {"numOutputRows": "10"})
THREE_MORE = ("MERGE", {}, {"numTargetRowsInserted": "3", "numTargetRowsDeleted": "0"})
TWO_LESS = ("MERGE", {}, {"numTargetRowsInserted": "0", "numTargetRowsDeleted": "2"})
APPENDED = ("WRITE", {"mode": "Append"}, {"numOutputRows": "4"})
COMPACTED = ("OPTIMIZE", {}, {"numOutputRows": "99"})


def test_rows_since_the_table_was_made_or_replaced() -> None:
    assert rows_said([MADE]) == 0
    assert rows_said([THREE_MORE, MADE]) == 3
    assert rows_said([COMPACTED, TWO_LESS, THREE_MORE, APPENDED, TEN, THREE_MORE, MADE]) == 15


def test_what_commits_do_not_say_is_left_to_be_counted() -> None:
    by_date = ("WRITE", {"mode": "Overwrite", "predicate": "[]"}, {"numOutputRows": "5"})
    for unknown in (
        by_date,
        ("DELETE", {}, {"numDeletedRows": "1"}),
        ("RESTORE", {}, {}),
        ("WRITE", {"mode": "Overwrite"}, {}),
        ("MERGE", {}, {"numTargetRowsInserted": "3"}),
    ):
        assert rows_said([THREE_MORE, unknown, TEN]) is None
    assert rows_said([THREE_MORE]) is None  # older commits are no longer kept
    assert rows_said([]) is None
