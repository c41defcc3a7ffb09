"""How files are divided into messages."""

from __future__ import annotations

from bot.messages.attachments import pack
from engine.service.service import ResultFile

MIB = 1024 * 1024


def test_pack_respects_discord_limits() -> None:
    files = [ResultFile(f"stem{at}", "x", size, "x") for at, size in enumerate((9 * MIB, 9 * MIB, 9 * MIB, 2 * MIB))]
    messages = pack(files)
    assert [[file.name for file in message] for message in messages] == [["stem0", "stem1"], ["stem2", "stem3"]]
    assert [len(message) for message in pack([ResultFile("x", "x", 1, "x")] * 11)] == [10, 1]
    assert pack([]) == [()], "a failed job is announced too"
