"""When packets arrive at the voice server: the real bot and discord.py against a fake Discord."""

from __future__ import annotations

import asyncio
import tempfile
from itertools import pairwise
from pathlib import Path

from bench.report import Row
from engine.voice.protocol import FRAME_S, SILENCE
from tests.fakes.discord.voice import VoicePacket
from tests.fixtures.voice_hall import open_hall

WARM_UP_S = 2.0


def measure_packets(seconds: float) -> Row:
    """Play for some seconds in one channel."""
    return asyncio.run(_measure(seconds))


async def _measure(seconds: float) -> Row:
    with tempfile.TemporaryDirectory(prefix="bench-voice-") as folder:
        async with open_hall(Path(folder), seconds=round(seconds) + 30) as hall:
            await hall.voice.join(hall.ann.user, hall.hall)
            await hall.play(await hall.song())
            await hall.heard()
            await asyncio.sleep(WARM_UP_S)
            hall.voice.packets.clear()
            await asyncio.sleep(seconds)
            packets = list(hall.voice.packets)
            await hall.leave()
    return _row(packets)


def _row(packets: list[VoicePacket]) -> Row:
    gaps_s = sorted(later.at_s - earlier.at_s for earlier, later in pairwise(packets))
    jitters_s = sorted(abs(gap_s - FRAME_S) for gap_s in gaps_s)
    return {
        "packets": len(packets),
        "lost": packets[-1].sequence - packets[0].sequence + 1 - len(packets),
        "silent": sum(packet.frame == SILENCE for packet in packets),  # the player was late
        "jitter_ms_p99": 1000 * jitters_s[int(0.99 * len(jitters_s))],
        "longest_gap_ms": 1000 * gaps_s[-1],
        "gaps_over_40_ms": sum(gap_s > 2 * FRAME_S for gap_s in gaps_s),
    }
