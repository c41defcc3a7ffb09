"""`python -m engine separate SONG…`: separate files with one worker, without job store and queue."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from config.settings import Settings
from engine.backend import media_limits
from engine.cli.arguments import DONE, FAILED, REFUSED
from engine.cli.local_separator import LocalSeparator, PlanOptions
from engine.cli.terminal import progress_bar, trust_lines
from engine.errors import InputRefused, StemifyError
from engine.jobs.options import StemSeparationOptions
from engine.jobs.results import JobResult
from engine.media.decode import Probe
from engine.media.limits import MediaLimits
from engine.media.sandbox import probe_in_sandbox
from engine.pool.devices import find_devices
from engine.text import safe_title

log = logging.getLogger(__name__)

_LONGEST_S = 7 * 86400.0
_LARGEST_BYTES = 1 << 50
_TIMEOUT_S = 86400.0


@dataclass(frozen=True)
class SongFile:
    """A song and the folder for its stems."""

    path: Path
    out: Path


def song_files(paths: list[Path], out: Path) -> list[SongFile]:
    """Return the folder of each song: `out` for a single one, otherwise folders in it named after the files."""
    if len(paths) == 1:
        return [SongFile(paths[0], out)]
    songs: list[SongFile] = []
    used: set[str] = set()
    for path in paths:
        name = base = safe_title(path.stem)
        number = 1
        while name.casefold() in used:
            number += 1
            name = f"{base} ({number})"
        used.add(name.casefold())
        songs.append(SongFile(path, out / name))
    return songs


def own_file_limits(settings: Settings, max_minutes: float | None) -> MediaLimits:
    """Return limits for files of the user who runs the command: length and size are free unless asked for."""
    return replace(
        media_limits(settings),
        max_bytes=_LARGEST_BYTES,
        max_duration_s=_LONGEST_S if max_minutes is None else max_minutes * 60,
        timeout_s=_TIMEOUT_S,
    )


class Report:
    """Prints results to stdout and errors to stderr, and collects the exit code."""

    def __init__(self, *, as_json: bool, several: bool) -> None:
        self._as_json = as_json
        self._several = several
        self._codes = {DONE}

    @property
    def code(self) -> int:
        """1 if a song failed, otherwise 2 if one was refused."""
        return next(code for code in (FAILED, REFUSED, DONE) if code in self._codes)

    def add_result(self, song: SongFile, result: JobResult) -> None:
        if self._as_json and self._several:
            print(
                json.dumps({"song": str(song.path), "result": result.model_dump(mode="json", by_alias=True)}),
                flush=True,
            )
        elif self._as_json:
            print(result.model_dump_json(indent=2, by_alias=True))
        else:
            if self._several:
                print(song.path)
            for name, info in result.stems:
                print(f"{name:12} {info.path}")
            if result.stem_file is not None:
                print(f"{'stem file':12} {result.stem_file.path}")
            print("Trust card", *(f"   {line}" for line in trust_lines(result)), sep="\n", flush=True)

    def add_error(self, song: SongFile, error: StemifyError) -> None:
        is_refusal = isinstance(error, InputRefused)
        self._codes.add(REFUSED if is_refusal else FAILED)
        print(f"{song.path}: {error.message}", file=sys.stderr)
        if error.detail and not is_refusal:
            log.error("%s: %s", error.code, error.detail)
        if self._as_json and self._several:
            shown = {"code": error.code, "message": error.message}
            print(json.dumps({"song": str(song.path), "error": shown}), flush=True)


async def separate_songs(settings: Settings, args: argparse.Namespace) -> int:
    """Separate the songs one after the other and return the exit code.

    All songs are examined first. A song that is refused or fails does not stop the others.
    Raises `BadOptions` and `DeviceNotFound`.
    """
    choose_options = partial(
        StemSeparationOptions.from_user,
        model=args.model,
        quality=args.quality,
        output_format=args.format,
        normalize=args.normalize,
        remove_vocals=args.karaoke,
    )
    choose_options()
    plan = PlanOptions(shifts=args.shifts, overlap=args.overlap, seed=args.seed)
    limits = own_file_limits(settings, args.max_minutes)
    device = (await find_devices([args.device]))[0]
    songs = song_files(args.songs, args.out)
    report = Report(as_json=args.json, several=len(songs) > 1)
    accepted: list[tuple[SongFile, Probe]] = []
    for song in songs:
        try:
            accepted.append((song, await _examine(song.path, limits)))
        except StemifyError as error:
            report.add_error(song, error)
    if not accepted:
        return report.code
    async with LocalSeparator(settings, device, args.out, limits) as separator:
        options = choose_options(ready=await separator.ready_models())
        for song, found in accepted:
            try:
                with progress_bar(song.path.name if len(songs) > 1 else None) as show:
                    result = await separator.separate(song.path, found, song.out, options, plan, on_progress=show)
            except StemifyError as error:
                report.add_error(song, error)
            else:
                report.add_result(song, result)
    return report.code


async def _examine(path: Path, limits: MediaLimits) -> Probe:
    if not await asyncio.to_thread(path.is_file):
        raise InputRefused("This is a folder. Give a file." if path.is_dir() else "There is no such file.")
    try:
        return await probe_in_sandbox(path, limits)
    except OSError as error:
        raise InputRefused(f"This file cannot be read: {error.strerror}.") from error
