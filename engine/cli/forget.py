"""`python -m engine forget OWNER`: delete all data of one owner while the bot is stopped.

Users of a running bot can do this themselves (`/job delete`, *Everything*).
"""

from __future__ import annotations

import re

from config.settings import Settings
from engine.database.job_store import JobStore
from engine.database.lock import exclusive_lock
from engine.errors import InputRefused
from engine.storage.object_store import open_storage

_OWNER = re.compile(r"discord:\d+|ip:\S+|local")
_STORAGE_TIMEOUT_S = 30.0


async def forget_owner(settings: Settings, owner: str) -> int:
    """Delete all jobs of `owner` with their files, including archived and kept ones; return their number.

    `owner` is "discord:<user id>", "ip:<address>" or "local". Raises `InputRefused`, `AlreadyRunning`, and errors of
    the store and the storage.
    """
    if not _OWNER.fullmatch(owner):
        raise InputRefused(f"Unknown owner {owner!r}. Use discord:<user id>, ip:<address> or local.")
    root = settings.data_dir
    if not (root / "stemify.sqlite3").is_file():
        raise InputRefused(f"{root} contains no jobs. Set STEMIFY_DATA_DIR.")
    with exclusive_lock(root / "stemify.lock"):
        store = await JobStore.open(root / "stemify.sqlite3")
        try:
            storage = open_storage(root, settings.storage, patience_s=_STORAGE_TIMEOUT_S)
            job_ids = await store.ids_by_owner(owner)
            for job_id in job_ids:
                await store.delete(job_id)
                await storage.delete_job(job_id)
                await store.forget_deletion(job_id)
            await store.forget_owner(owner)
        finally:
            await store.close()
    return len(job_ids)
