"""How commands show what they read: before they do, while it takes long, and what was left out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from safeguard_streams.bus import kafka
from safeguard_streams.cli.output import console, say
from safeguard_streams.runtime.counts import counted

_NAMED = 3  # topics of a reading that are named


class _ShownReading(kafka.Reading):
    """Announces each reading on standard error, and shows a bar for the one in progress."""

    def __init__(self, bar: Progress) -> None:
        super().__init__()
        self._bar = bar
        self._task: TaskID | None = None

    def begin(self, names: Sequence[str], offsets: int) -> None:
        read = ", ".join(names) if len(names) <= _NAMED else counted(len(names), "topic")
        line = f"reading {counted(offsets, 'record')} of {read}"
        self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task("", total=offsets) if offsets else None

    def advance(self, offsets: int) -> None:
        if self._task is not None:
            self._bar.advance(self._task, offsets)


@contextlib.contextmanager
def shown_reading() -> Iterator[kafka.Reading]:
    """Show on standard error what the block reads, how far it is, and at its end how many records were left out."""
    columns = (TextColumn("reading"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    out = console(stderr=True)
    bar = Progress(*columns, console=out, transient=True, disable=not out.is_terminal)
    with bar, kafka.watched(_ShownReading(bar)) as reading:
        yield reading
    if left_out := str(reading):
        say(left_out, error=True)
