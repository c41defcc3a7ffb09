"""A fake Discord on loopback for an unmodified discord.py: REST v10, gateway and CDN over real sockets.

`FakeDiscord` is the server, and `Person` acts as a user of the app. Messages with all their versions, interactions with
their times, and requests with their responses are recorded.
"""

from __future__ import annotations

from tests.fakes.discord.faults import Fault
from tests.fakes.discord.people import Person, Upload
from tests.fakes.discord.server import FakeDiscord
from tests.fakes.discord.state import Channel, Guild, Interaction, Message

__all__ = ["Channel", "FakeDiscord", "Fault", "Guild", "Interaction", "Message", "Person", "Upload"]
