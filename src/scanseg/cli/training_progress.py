"""A progress bar for training runs, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def training_progress(what: str, *, quiet: bool) -> Iterator[Callable[[int, int, float], None]]:
    """A function to be told step, steps and loss; shown where there is a terminal.

    Args:
        what: a word for what is going on.
        quiet: show nothing.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps, loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, disable=quiet, redirect_stdout=False) as bar:
        task = bar.add_task(what, total=None, loss=float("nan"))

        def tell(step: int, total: int, loss: float) -> None:
            bar.update(task, completed=step, total=total, loss=loss)

        yield tell
