"""Folders that only this user can write to, and files that may be run as code."""

from __future__ import annotations

import contextlib
import grp
import logging
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import FolderNotPrivate

log = logging.getLogger(__name__)

_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108  # shared even where they lack the sticky bit
_OUR_FILES = frozenset({"stemify.lock", "stemify.sqlite3", "models", "workers"})


@contextmanager
def private_files() -> Iterator[None]:
    """Create files for this user alone (umask 077)."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def private_folder(path: Path) -> Path:
    """Make a folder that other users cannot open, or close it if it is ours; its real path.

    Root may use a mount point of another user, as in a container. Raises `FolderNotPrivate` when another user could
    change what is in the folder, and `OSError` when it cannot be made.
    """
    path = path.expanduser().absolute()
    _check_links(path)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = path.resolve()
    if _cannot_be_closed(folder):
        log.warning("%s cannot be closed to other users: its file system ignores modes", folder)
        return folder
    _check_places(folder, mounts=True)
    return folder


def check_code(path: Path) -> None:
    """Check that no other user can have written a file that is to be run. Raises `FolderNotPrivate`, `OSError`."""
    path = path.absolute()
    _check_links(path)
    _check_places(path.resolve(), mounts=False)


def _check_places(target: Path, *, mounts: bool) -> None:
    """Refuse a file or folder when other users can change it, or one of the folders above it.

    `mounts`: root may use what lies in a mount point of another user.
    """
    us = os.geteuid()
    for place in (target, *target.parents[:-1]):
        found = place.stat()
        shared = place != target and (bool(found.st_mode & stat.S_ISVTX) or place in _TEMPORARY)
        if _others_can_write(found) and not shared:
            raise FolderNotPrivate(
                f"Other users can change {target}, because they can write to {place}. "
                f"Run: chmod go-w {place}, or choose another folder."
            )
        if found.st_uid not in (0, us):
            if us == 0 and mounts and place.is_mount():
                log.warning(
                    "%s belongs to user %d, who can change %s; no code is loaded from there",
                    place, found.st_uid, target,
                )  # fmt: skip
                return
            raise _of_another_user(target, place, found)
        if us != 0 and place != target and (found.st_uid == 0 or shared):
            return  # only root can move what is below


def _cannot_be_closed(folder: Path) -> bool:
    """Close a folder of ours to others; whether its file system ignores modes, as FAT or some network drives do.

    A folder with other files keeps its mode: new files in it are private in any case.
    """
    found = folder.stat()
    if found.st_uid != os.geteuid() or not found.st_mode & 0o077:
        return False
    if found.st_mode & stat.S_ISVTX:
        raise FolderNotPrivate(f"{folder} is shared by all users. Choose a folder inside it.")
    names = {entry.name for entry in folder.iterdir()}
    if names and not names & _OUR_FILES:
        return False
    with contextlib.suppress(OSError):
        folder.chmod(0o700)
    closed = folder.stat()
    if names and closed.st_mode != found.st_mode:
        log.warning("%s was open to other users (mode %03o); it is closed now", folder, found.st_mode & 0o777)
    return _others_can_write(closed)


def _check_links(path: Path) -> None:
    """Refuse symbolic links that another user made."""
    for place in (path, *path.parents):
        if place.is_symlink() and (found := place.lstat()).st_uid not in (0, os.geteuid()):
            raise _of_another_user(path, place, found)


def _others_can_write(found: os.stat_result) -> bool:
    if found.st_mode & stat.S_IWOTH:
        return True
    return bool(found.st_mode & stat.S_IWGRP) and not _is_private_group(found)


def _is_private_group(found: os.stat_result) -> bool:
    """Whether the group of a file is that of root, of us or of its owner, with no other member."""
    if found.st_gid not in (0, os.geteuid(), found.st_uid):
        return False
    try:
        members = set(grp.getgrgid(found.st_gid).gr_mem)
    except KeyError:  # a group without a name has no members beside its user
        return True
    with contextlib.suppress(KeyError):
        members -= {"root", pwd.getpwuid(found.st_uid).pw_name, pwd.getpwuid(os.geteuid()).pw_name}
    return not members


def _of_another_user(target: Path, place: Path, found: os.stat_result) -> FolderNotPrivate:
    advice = (
        f"Run: chown -R {os.geteuid()} {place}, or choose another folder."
        if place == target
        else ("Choose a folder that is not inside one of another user.")
    )
    return FolderNotPrivate(
        f"{target} is not used: {place} belongs to another user (number {found.st_uid}), who could change its "
        f"contents. {advice}"
    )
