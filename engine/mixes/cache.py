"""Finished mixes in the folder of their job: `jobs/<job id>/m<digest>/`, with a manifest of their files."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.errors import NotFound
from engine.mixes.plan import MixPlan
from engine.mixes.process import RenderedFiles
from engine.storage.storage import Storage

_MANIFEST = "mix.json"


@dataclass(frozen=True)
class StoredFile:
    key: str
    filename: str
    size: int  # bytes


@dataclass(frozen=True)
class StoredMix:
    """A finished mix or version; `files` by stem, or by "mix"."""

    name: str
    gain_db: float
    files: dict[str, StoredFile]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files.values())


class MixCache:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @staticmethod
    def folder(job_id: str, plan: MixPlan) -> str:
        return f"jobs/{job_id}/m{plan.digest}"

    async def find(self, folder: str) -> StoredMix | None:
        """Return a finished mix, or None. What a broken upload left is deleted."""
        try:
            async with self._storage.open_file(f"{folder}/{_MANIFEST}") as path:
                text = await asyncio.to_thread(path.read_text)
        except (NotFound, FileNotFoundError):
            text = "{}"
        values = json.loads(text)
        if values:
            files = {key: StoredFile(**file) for key, file in values.pop("files").items()}
            sizes = await asyncio.gather(*(self._storage.size(file.key) for file in files.values()))
            if sizes == [file.size for file in files.values()]:
                return StoredMix(**values, files=files)
        await self._storage.delete_tree(folder)
        return None

    @staticmethod
    def describe(folder: str, rendered: RenderedFiles, local: Path) -> StoredMix:
        """Return the mix as it will be stored, from its files in the folder `local`."""
        files = {
            key: StoredFile(f"{folder}/{filename}", filename, (local / filename).stat().st_size)
            for key, filename in rendered.files.items()
        }
        return StoredMix(rendered.name, rendered.gain_db, files)

    async def publish(self, folder: str, mix: StoredMix, local: Path) -> None:
        """Move the files in the folder `local` to the job, all at once. Raises `DiskFull`, `StorageFailed`."""
        (local / _MANIFEST).write_text(json.dumps(asdict(mix)))
        await self._storage.in_thread(self._storage.publish_folder, local, folder)
