"""What a card consists of, whatever it is about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from bot.cards import text

Action = Literal[
    "cancel",
    "retry",
    "keep",
    "delete",
    "refresh",
    "karaoke",
    "no_drums",
    "no_bass",
    "mix",
    "more",
    "details",
    "again",
    "compare",
    "choose_a",
    "choose_b",
    "choose_c",
    "choose_d",
    "whole_a",
    "whole_b",
    "whole_c",
    "whole_d",
    "retry_fallback",
    "voice",
    "cancel_all",
    "delete_all",
]
"""What a button does with a job; `cancel_all` and `delete_all`: with a batch.

`choose_a` chooses the model A of a comparison, `whole_a` separates the whole song with it.
"""

WAITING, WORKING, DONE, FAILED, QUIET = 0x5865F2, 0xF0B232, 0x23A55A, 0xDA373C, 0x80848E
"""Colours of a card's edge."""

PICTURE = "waveform.png"
TEXT_LENGTH = 3500  # below Discord's limit of 4000 for a message


@dataclass(frozen=True)
class ButtonSpec:
    """A button with an action."""

    action: Action
    label: str
    style: Literal["plain", "go", "danger"] = "plain"


MIXES: dict[Action, tuple[str, str]] = {
    "karaoke": (text.KARAOKE, "vocals"),
    "no_drums": (text.NO_DRUMS, "drums"),
    "no_bass": (text.NO_BASS, "bass"),
}
"""Label of each mix, and the stem that it leaves out."""


CHOICES: dict[str, Action] = {"A": "choose_a", "B": "choose_b", "C": "choose_c", "D": "choose_d"}
WINNERS: dict[str, Action] = {"A": "whole_a", "B": "whole_b", "C": "whole_c", "D": "whole_d"}
"""Actions by the label of a model in a comparison."""


@dataclass(frozen=True)
class Card:
    """The content of a message: `body` above the picture, `below` and `small` under it, `until` under the buttons."""

    heading: str
    body: str = ""
    below: str = ""
    small: str = ""
    accent: int = QUIET
    picture: str = ""  # its alternative text; "": no picture
    links: tuple[tuple[str, str], ...] = ()
    mixes: tuple[ButtonSpec, ...] = ()
    buttons: tuple[ButtonSpec, ...] = ()
    until: str = ""


def without_link_buttons(card: Card) -> Card:
    """Move links into the text, for URLs that Discord refuses on buttons (such as http://localhost)."""
    free, kept = TEXT_LENGTH - len(card.body + card.below + card.small), []
    for label, url in card.links:
        if len(url) + len(label) + 10 < free:
            kept.append(f"[{label}](<{url}>)")
            free -= len(url) + len(label) + 10
    return replace(card, below="\n".join(part for part in (card.below, " · ".join(kept)) if part), links=())


def without_picture(card: Card) -> Card:
    """Return the card for `/job status`: the picture and the mixes are only on the job's own message."""
    return replace(card, picture="", mixes=())


def without_title_and_links(card: Card) -> Card:
    """Return the card for places in which Discord blocks the title or the links.

    A card without a body is that of a batch; its titles are below the heading.
    """
    return replace(card, heading=text.UNTITLED if card.body else card.heading, below="", links=())
