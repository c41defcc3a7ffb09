"""A progress bar on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from engine.jobs.job import Stage


@contextmanager
def progress_bar() -> Iterator[Callable[[Stage | None, int], None]]:
    """Gives `show(stage, per cent)`."""
    columns = (TextColumn("{task.description:<11}"), BarColumn(40), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting", total=100)

        def show(stage: Stage | None, per_cent: int) -> None:
            progress.update(task, completed=per_cent, description=stage.value if stage else "waiting")

        try:
            yield show
        except BaseException:
            progress.update(task, visible=False)  # the reason is all that is to be read
            raise
        progress.update(task, completed=100, description="done")
