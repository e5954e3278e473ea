"""Progress and logs go to stderr, so that stdout ends with one JSON line."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table


class Progress:
    """Says what a job is doing, on stderr, one line a step."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        """One line with the seconds since the job began."""
        self._line(escape(text))

    def warn(self, text: str) -> None:
        """A line that should be seen."""
        self._line(f"[yellow]warning[/yellow] {escape(text)}")

    def error(self, message: str, remedy: str) -> None:
        """What ended the job, and what to do next."""
        self.console.print(
            f"[bold red]error[/bold red] {escape(message)}\n[bold]remedy[/bold] {escape(remedy)}"
        )

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Announce a stage and, when it ends, how long it took."""
        self._line(f"[bold]{name}[/bold] ...")
        began = time.monotonic()
        yield
        self._line(f"[bold]{name}[/bold] done in {time.monotonic() - began:.1f}s")

    def _line(self, marked: str) -> None:
        self.console.print(f"[dim]{time.monotonic() - self._start:7.1f}s[/dim] {marked}")
        sys.stderr.flush()

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table a person reads at the end."""
        # no frame: in 80 columns an interval is not broken over two lines
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.show_edge = table.pad_edge = False
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)
