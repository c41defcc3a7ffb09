"""The arguments of `python -m engine mix`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from engine.mixes.entities import MixFormat


def add_mix_command(commands: Any) -> None:
    """Add the parser of `mix` to the parsers of the commands."""
    mix = commands.add_parser("mix", help="make one file of stems, with other levels, key or tempo")
    mix.add_argument("folder", type=Path, metavar="FOLDER", help="folder of stems, as written by separate")
    mix.add_argument("--song", metavar="TITLE", help="the song, if the folder has stems of several")
    mix.add_argument("--without", nargs="+", default=[], metavar="STEM", help="leave out these stems")
    mix.add_argument(
        "--gain",
        action="append",
        default=[],
        type=_gain,
        metavar="STEM=DB",
        help="change the level of a stem, such as drums=-6",
    )
    mix.add_argument(
        "--from", dest="start_s", type=_seconds, metavar="TIME", help="start of the range, such as 62.5 or 1:02.5"
    )
    mix.add_argument("--to", dest="end_s", type=_seconds, metavar="TIME", help="end of the range")
    mix.add_argument("--key", type=float, default=0.0, metavar="N", help="semitones, -12 to 12")
    mix.add_argument("--tempo", type=float, default=1.0, metavar="X", help="0.5 to 1.5; 1 is the tempo of the song")
    mix.add_argument("--format", choices=[each.value for each in MixFormat], help="default: by --out, or mp3")
    mix.add_argument("--out", type=Path, metavar="FILE", help="default: a name that says what the mix is, in FOLDER")


def _gain(text: str) -> tuple[str, float]:
    stem, _, level = text.partition("=")
    try:
        level_db = float(level.removesuffix("dB"))
    except ValueError:
        raise argparse.ArgumentTypeError("give a stem and a level in dB, such as drums=-6") from None
    return stem, 10 ** (level_db / 20)


def _seconds(text: str) -> float:
    minutes, _, seconds = text.rpartition(":")
    try:
        return 60 * int(minutes or 0) + float(seconds)
    except ValueError:
        raise argparse.ArgumentTypeError("give seconds or minutes, such as 62.5 or 1:02.5") from None
