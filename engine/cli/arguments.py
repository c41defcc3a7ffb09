"""Exit codes and argument types of the command line, and a parser whose errors name the closest match."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from engine.text import did_you_mean

DONE, FAILED, REFUSED = 0, 1, 2

_INVALID_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.set_defaults(parser=self)  # in the namespace: the parser of the command

    def error(self, message: str) -> NoReturn:
        invalid = _INVALID_CHOICE.search(message)
        if invalid is not None:
            choices = [choice.strip("' ") for choice in invalid[2].split(",")]
            message += f".{did_you_mean(invalid[1], choices)}"
        super().error(message)

    def refuse(self, arguments: Sequence[str]) -> NoReturn:
        """Exit with an error that names arguments the command does not have."""
        message = f"unrecognized arguments: {' '.join(arguments)}"
        option = next((each.partition("=")[0] for each in arguments if each.startswith("--")), None)
        if option is not None:
            names = [name for action in self._actions for name in action.option_strings]
            message += f".{did_you_mean(option, names)}"
        self.error(message)


def parse(parser: Parser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse arguments; exit with code 2 and a message if they are wrong."""
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        command: Parser = args.parser
        command.refuse(unknown)
    return args


def song_path(text: str) -> Path:
    if text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError("links work in Discord, on the web page and in the API only; give a file")
    return Path(text)


def shift_count(text: str) -> int:
    if not text.isdecimal() or int(text) > 20:
        raise argparse.ArgumentTypeError("must be a whole number, 0 to 20")
    return int(text)


def overlap_fraction(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 0.95:
        raise argparse.ArgumentTypeError("must be a number, 0 to 0.95")
    return value


def minutes(text: str) -> float:
    value = _number(text)
    if not 0 < value <= 10_000:
        raise argparse.ArgumentTypeError("must be a number of minutes, more than 0")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0
