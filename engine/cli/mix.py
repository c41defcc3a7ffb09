"""`python -m engine mix FOLDER`: one file of the stems that `separate` wrote."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import av

from config.settings import Settings
from engine.errors import InputRefused
from engine.jobs.models import NAME
from engine.jobs.options import DISPLAY_ORDER
from engine.mixes.entities import MixFormat, MixRequest
from engine.mixes.errors import BadMix
from engine.mixes.plan import plan_mix
from engine.mixes.process import Song, render_files

_STEM_FILE = re.compile(
    rf"(?P<title>.+) - (?P<stem>{'|'.join(DISPLAY_ORDER)}) - (?P<model>{NAME.pattern})\.(?:mp3|wav|flac)"
)


@dataclass(frozen=True)
class MixedFile:
    path: Path
    gain_db: float


def mix_folder(settings: Settings, args: argparse.Namespace) -> MixedFile:
    """Write the mix. Raises `InputRefused`, `MixFailed` and errors of the disk."""
    song = _song_in(args.folder, args.song)
    values = {"gains": _gains(args), "key": args.key, "tempo": args.tempo, "format": _output_format(args)}
    values |= {"from": args.start_s, "to": args.end_s}
    plan = plan_mix(MixRequest.from_user(values), list(song.stems), song.duration_s)
    place = args.out.parent if args.out else args.folder
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".stemify-", dir=place) as work:
            rendered = render_files(song, plan, Path(work), cpu_s=settings.mixes.cpu_s)
            target = args.out or args.folder / rendered.files["mix"]
            shutil.move(Path(work) / rendered.files["mix"], target)
    except OSError as error:
        raise InputRefused(f"The mix cannot be written to {place}: {error.strerror}.") from error
    return MixedFile(target, rendered.gain_db)


def _output_format(args: argparse.Namespace) -> str:
    extension = args.out.suffix.lstrip(".").lower() if args.out else ""
    if args.format is None and extension and extension not in {each.value for each in MixFormat}:
        raise BadMix(f"A mix cannot be written as .{extension}. Choose .mp3, .wav or .flac, or add --format.")
    return str(args.format or extension or MixFormat.MP3.value)


def _gains(args: argparse.Namespace) -> dict[str, float]:
    gains = dict(args.gain)
    if both := [stem for stem in args.without if stem in gains]:
        raise BadMix(f"{both[0]} has a gain and is left out. Choose one of them.")
    return gains | dict.fromkeys(args.without, 0.0)


def _song_in(folder: Path, title: str | None) -> Song:
    """Return the one song whose stems are in the folder. Raises `InputRefused`."""
    if not folder.is_dir():
        raise InputRefused(f"There is no folder {folder}.")
    songs: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    for path in sorted(folder.iterdir()):
        if (found := _STEM_FILE.fullmatch(path.name)) and title in (None, found["title"]):
            songs[found["title"], found["model"]][found["stem"]] = path
    if not songs:
        what = f"stems of {title!r}" if title else "stems as written by `python -m engine separate`"
        raise InputRefused(f"{folder} has no {what}.")
    if len(songs) > 1:
        names = "; ".join(f"{name} ({model})" for name, model in songs)
        raise InputRefused(
            f"{folder} has the stems of several songs or models: {names}. "
            "Choose a song with --song, or move the others to another folder."
        )
    ((name, model), stems), *_ = songs.items()
    gain_db = _common_gain_db(folder / f"{name} - peaks.json", model)
    in_order = {stem: stems[stem] for stem in DISPLAY_ORDER if stem in stems}
    return Song(name, model, max(map(_duration_s, in_order.values())), gain_db, in_order)


def _common_gain_db(peaks: Path, model: str) -> float:
    """Return the common gain of the stems, as `separate` noted it; 0 if it is not known."""
    try:
        values = json.loads(peaks.read_text())
        return float(values["gain_db"]) if values["model"] == model else 0.0
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def _duration_s(path: Path) -> float:
    try:
        with av.open(str(path)) as container:
            return float(container.duration or 0) / av.time_base
    except (av.FFmpegError, OSError) as error:
        raise InputRefused(f"{path} cannot be read. Separate the song again.") from error
