"""What commands with a model show on standard error while they work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from safeguard_streams.cli.output import console, plain, say
from safeguard_streams.runtime.settings import Settings
from safeguard_streams.workers.evaluation.interface import OnProgress


def announce_start(settings: Settings) -> None:
    """Say what the command waits for before its first progress."""
    loading = f"loading {settings.model}, which takes up to a minute on a CPU"
    line = f"connecting to {settings.servers}" if settings.servers else loading
    say(line, error=True)


@contextlib.contextmanager
def progress_bars() -> Iterator[OnProgress]:
    """Yields a callback that draws one bar for each title."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console(stderr=True)) as progress:

        def on_progress(title: str, count: int, total: int, detail: str = "") -> None:
            if title not in tasks:
                tasks[title] = progress.add_task(escape(plain(title)), total=total)
            progress.update(
                tasks[title], completed=count, description=escape(plain(f"{title}, {detail}" if detail else title))
            )

        yield on_progress
