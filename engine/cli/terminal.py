"""Terminal output: the progress bar, and a result's trust card as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from textwrap import wrap

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from engine.jobs.job import Stage
from engine.jobs.results import JobResult
from engine.jobs.trust import Fact, music_facts, plan_fact, quality_facts, stem_level, sum_facts

_WIDTH = 76  # plus the callers' indent, less than 80 columns
_LABEL_WIDTH = 14


@contextmanager
def progress_bar(title: str | None = None) -> Iterator[Callable[[Stage | None, int], None]]:
    """Show a progress bar on stderr, below a `title`; yield its `show(stage, percent)`."""
    columns = (TextColumn("{task.description:<11}"), BarColumn(40), TaskProgressColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    if title is not None:
        console.print(title, markup=False, highlight=False)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=100)

        def show(stage: Stage | None, percent: int) -> None:
            progress.update(task, completed=percent, description=stage.value if stage else "waiting")

        try:
            yield show
        except BaseException:
            progress.update(task, visible=False)  # leave only the error on the screen
            raise
        progress.update(task, completed=100, description="done")


def trust_lines(result: JobResult) -> list[str]:
    """Return what was measured about the stems, their sum and the run; unmeasured facts are left out."""
    rows: list[Fact] = [(name, stem_level(info)) for name, info in result.stems]
    if result.music is not None:
        rows += music_facts(result.music)
    if (trust := result.trust) is not None:
        rows += [*sum_facts(trust), plan_fact(trust)]
    if (quality := result.quality_metrics) is not None:
        rows += quality_facts(quality)
    if (cost := result.processing) is not None:
        device = f" on {trust.device}" if trust is not None else ""
        rows.append(("cost", f"{cost.processing_time} s{device}, {cost.memory_usage} MB at the peak"))
    if trust is not None:
        rows += [("note", note) for note in trust.notes]
    return [
        line
        for label, text in rows
        for line in wrap(text, _WIDTH, initial_indent=f"{label:{_LABEL_WIDTH}}", subsequent_indent=" " * _LABEL_WIDTH)
    ]
