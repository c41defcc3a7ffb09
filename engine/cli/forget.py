"""`python -m engine forget OWNER`: whoever runs the bot deletes everything that one person has, on their request.

For a bot that is stopped; while it runs, people do it themselves (`/job delete`, *Everything*).
"""

from __future__ import annotations

import re

from config.settings import Settings
from engine.database.job_store import JobStore
from engine.database.lock import exclusive_lock
from engine.errors import InputRefused
from engine.storage.object_store import open_storage

_OWNER = re.compile(r"discord:\d+|ip:\S+|local")
_PATIENCE_S = 30.0  # with an object storage that does not answer


async def forget_owner(settings: Settings, owner: str) -> int:
    """Delete all jobs of `owner` ("discord:<user id>", "ip:<address>", "local"), archived and kept ones too, with their
    files; how many there were. Raises `InputRefused`, `AlreadyRunning`, and what the store and the storage raise."""
    if not _OWNER.fullmatch(owner):
        raise InputRefused(f"{owner!r} is nobody's name here: say discord:<user id>, ip:<address> or local.")
    root = settings.data_dir
    if not (root / "stemify.sqlite3").is_file():
        raise InputRefused(f"There are no jobs in {root}. Set STEMIFY_DATA_DIR.")
    with exclusive_lock(root / "stemify.lock"):
        store = await JobStore.open(root / "stemify.sqlite3")
        try:
            storage = open_storage(root, settings.storage, patience_s=_PATIENCE_S)
            job_ids = await store.ids_by_owner(owner)
            for job_id in job_ids:
                await store.delete(job_id)
                await storage.delete_job(job_id)
                await store.forget_deletion(job_id)
            await store.forget_owner(owner)
        finally:
            await store.close()
    return len(job_ids)
