"""Learned speeds: seconds of processing per second of audio, by model, quality and device."""

from __future__ import annotations

from engine.database.database import Database
from engine.database.sql import QUERIES


class Speeds:
    """All speeds are read together and kept until one changes: a page shows the times of every model."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[tuple[str, str, str], float] | None = None  # None: to be read

    async def get(self, model: str, quality: str, device: str) -> float | None:
        if (known := self._known) is None:
            rows = await self._database.read(QUERIES["speeds"])
            known = {(row["model"], row["quality"], row["device"]): float(row["s_per_audio_s"]) for row in rows}
            self._known = known
        return known.get((model, quality, device))

    async def learn(self, model: str, quality: str, device: str, *, processing_s: float, audio_s: float) -> None:
        """Add a measurement to the moving average. Zero durations are ignored."""
        if processing_s <= 0 or audio_s <= 0:
            return
        params = {"model": model, "quality": quality, "device": device, "measured": processing_s / audio_s}
        self._known = None
        await self._database.run(QUERIES["learn_speed"], params)
        self._known = None  # it may have been read in between
