"""Terminal output: the progress bar, and a result's trust card as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from textwrap import wrap

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from engine.jobs.job import Stage
from engine.jobs.results import JobResult, QualityMetrics, StemInfo, TrustCard
from engine.text import plural

_WIDTH = 76  # plus the callers' indent, less than 80 columns


@contextmanager
def progress_bar() -> Iterator[Callable[[Stage | None, int], None]]:
    """Show a progress bar on stderr; yield its `show(stage, percent)`."""
    columns = (TextColumn("{task.description:<11}"), BarColumn(40), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
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
    """Return the trust card as lines: the stems, their sum, the plan, and what else was measured."""
    rows = [(name, _stem_facts(info)) for name, info in result.stems]
    if (trust := result.trust) is not None:
        residual = "nothing" if trust.residual_db is None else f"{trust.residual_db:.1f} dB of the mix"
        rows.append(("in no stem", residual))
        if trust.offset:
            rows.append(("offset", f"{trust.offset:.2%} of full scale, constant (DC), removed from all stems"))
        rows += [
            ("common gain", f"{trust.gain_db:+.2f} dB, {trust.clipped_samples} clipped samples"),
            ("plan", _plan(trust)),
        ]
    if (quality := result.quality_metrics) is not None:
        rows += _quality_rows(quality)
    if (cost := result.processing) is not None:
        device = f" on {trust.device}" if trust is not None else ""
        rows.append(("cost", f"{cost.processing_time} s{device}, {cost.memory_usage} MB at the peak"))
    if trust is not None:
        rows += [("note", note) for note in trust.notes]
    return [
        line
        for name, text in rows
        for line in wrap(text, _WIDTH, initial_indent=f"{name:14}", subsequent_indent=" " * 14)
    ]


def _quality_rows(quality: QualityMetrics) -> list[tuple[str, str]]:
    scores = {
        "vocals": quality.vocal_isolation, "drums": quality.drum_separation, "bass": quality.bass_isolation,
        "few artefacts": quality.artifact_reduction,
    }  # fmt: skip
    parts = ", ".join(f"{name} {score:.0%}" for name, score in scores.items() if score is not None)
    caveat = ", rough: the song is short" if quality.low_confidence else ""
    rows = [("quality", f"about {quality.overall_score:.0%}{caveat} ({parts})"), ("", quality.method)]
    return [*rows, ("", quality.advice)] if quality.advice else rows


def _stem_facts(info: StemInfo) -> str:
    if info.level_db is None or info.peak_db is None:
        return "silent"
    silent = f", silent for {info.silence_share:.0%} of the song" if info.silence_share else ""
    return f"{info.level_db:.1f} dBFS, peak {info.peak_db:.1f} dBFS{silent}"


def _plan(trust: TrustCard) -> str:
    return (
        f"{plural(trust.segments, 'segment')} of {trust.segment_s:g} s, overlap {trust.overlap:g}, "
        f"shifts {trust.shifts}, seed {trust.seed}"
    )
