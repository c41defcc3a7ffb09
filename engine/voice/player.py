"""Starts the players of voice channels."""

from __future__ import annotations

from contextlib import AsyncExitStack

from engine.jobs.job import Job
from engine.mixes.entities import VersionRequest
from engine.mixes.mixer import Mixer
from engine.mixes.plan import plan_version_of
from engine.storage.storage import Storage
from engine.voice.stream import VoiceStream, start_stream

NICENESS = 5  # a separation must not delay it much, and the bot comes first


class VoicePlayer:
    def __init__(self, storage: Storage, mixer: Mixer) -> None:
        self._storage = storage
        self._mixer = mixer

    async def start(self, job: Job, version: VersionRequest, *, start_s: float, by: str) -> VoiceStream:
        """Play a completed job from `start_s`, a position in the song at its own tempo.

        Another key or tempo is made first, as a version. Raises `InvalidState`, `NotFound`, `BadMix` and what
        `Mixer.make` raises. Call it in the main thread: the child process ends with the thread that starts it.
        """
        result = await self._mixer.result_for(job, by=by)
        infos = dict(result.stems)
        duration_s = max(info.duration for info in infos.values())
        gain_db = result.trust.gain_db if result.trust is not None else 0.0
        keys = {name: info.path for name, info in infos.items()}
        if version != VersionRequest():
            made = await self._mixer.make(job, plan_version_of(result.stems, version), by=by)
            keys, gain_db = {name: made.files[name].key for name in infos}, made.gain_db
        async with AsyncExitStack() as files:
            paths = {name: await files.enter_async_context(self._storage.open_file(key)) for name, key in keys.items()}
            return start_stream(
                paths,
                gain_db=gain_db,
                duration_s=duration_s,
                start_s=start_s,
                tempo=version.tempo,
                niceness=NICENESS,
            )
