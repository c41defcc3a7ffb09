"""`make demo`: generate a sample song, separate it with the real service, and score the stems."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from config.settings import Settings
from engine.backend import backend
from engine.cli.terminal import progress_bar, trust_lines
from engine.jobs.job import JobView
from engine.jobs.options import OutputFormat, Quality, StemSeparationOptions
from engine.media.encode import StemEncoder
from engine.quality.evaluate import read_audio
from engine.quality.sdr import sdr_db
from engine.service.service import StemService, Submission, upload_of
from engine.synth.song import Song, sample_song

MODEL = "mini"


async def run_demo(settings: Settings, out: Path) -> int:
    """Write the demo's files to `out`, print a report, and return the exit code."""
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    console.print("[bold]1.[/] Generating a song: drums, bass, chords and vocals, 20 seconds.")
    song = await asyncio.to_thread(sample_song)
    mix = out / "Stemify sample song.wav"
    await asyncio.to_thread(_write_mix, song, mix)
    console.print(f"[bold]2.[/] Separating it with the embedded model [bold]{MODEL}[/].")
    with tempfile.TemporaryDirectory(prefix="stemify-demo-") as data:
        demo_settings = settings.model_copy(update={"data_dir": Path(data)})
        async with backend(demo_settings, with_web=False) as running:
            view = await _separate(running.service, mix)
            await _fetch_files(running.service, view, out)
    if view.job.result is None:
        console.print(f"[red]{view.job.error}[/]")
        return 1
    console.print("[bold]3.[/] Quality of the stems (SDR in dB, higher is better):")
    console.print(await asyncio.to_thread(_stem_table, view, song, out))
    console.print("Trust card")
    for line in trust_lines(view.job.result):
        console.print(f"   {line}", markup=False, highlight=False)
    console.print(f"[bold]4.[/] Files in {out}/:")
    for file in sorted(out.iterdir()):
        console.print(f"   {file.name}", markup=False, highlight=False)
    return 0


def _write_mix(song: Song, path: Path) -> None:
    tags = {"title": "Stemify sample song"}
    with StemEncoder(path, format="wav", sample_rate=song.sample_rate, tags=tags) as encoder:
        encoder.write(song.mix)


async def _separate(service: StemService, mix: Path) -> JobView:
    options = StemSeparationOptions(model=MODEL, quality=Quality.BALANCED, output_format=OutputFormat.WAV)
    view = await service.submit(Submission(upload_of(mix), options, owner="local"))
    with progress_bar() as show:
        async with contextlib.aclosing(service.watch(view.job.id)) as states:
            async for view in states:
                show(view.job.stage, view.job.progress)
    return view


async def _fetch_files(service: StemService, view: JobView, out: Path) -> None:
    if view.job.result is None:
        return
    names = {name: info.filename for name, info in view.job.result.stems} | {"waveform": "waveform.png"}
    for name, filename in names.items():
        async with service.open_file(view.job, name) as path:
            await asyncio.to_thread(shutil.copyfile, path, out / filename)


def _stem_table(view: JobView, song: Song, out: Path) -> Table:
    assert view.job.result is not None
    table = Table("stem", "level", "mix", "separated", box=None, pad_edge=False)
    scores = []
    for name, info in view.job.result.stems:
        truth = song.stems[name]
        estimate, _ = read_audio(out / info.filename)
        assert estimate.shape == truth.shape, "the stem and the mix differ in length"
        scores.append(sdr_db(truth, estimate))
        level = "silent" if info.level_db is None else f"{info.level_db:.1f} dBFS"
        table.add_row(name, level, f"{sdr_db(truth, song.mix):.1f}", f"[bold]{scores[-1]:.1f}[/]")
    table.add_row("mean", "", "", f"[bold]{np.mean(scores):.1f}[/]")
    return table
