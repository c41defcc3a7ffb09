"""A Discord of our own on loopback: REST v10, gateway, CDN, over real sockets, for an unmodified discord.py.

`FakeDiscord` is the server, `Person` acts in it as a user would in the app. Everything that happens is kept:
messages with all their versions, interactions with their times, requests with their answers.
"""

from __future__ import annotations

from tests.fakes.discord.faults import Fault
from tests.fakes.discord.people import Person, Upload
from tests.fakes.discord.server import FakeDiscord
from tests.fakes.discord.state import Channel, Guild, Interaction, Message

__all__ = ["Channel", "FakeDiscord", "Fault", "Guild", "Interaction", "Message", "Person", "Upload"]
