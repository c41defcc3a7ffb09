"""Operations on the local disk: atomic moves, synced folders, and errors as storage errors."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import DiskFull, StorageFailed, is_disk_full


@contextmanager
def translate_errors(key: str) -> Iterator[None]:
    """Raise `OSError` as `DiskFull` or `StorageFailed`."""
    try:
        yield
    except OSError as error:
        detail = f"{key}: {type(error).__name__}: {error}"
        if is_disk_full(error):
            raise DiskFull(detail=detail) from error
        raise StorageFailed(detail=detail) from error


@contextmanager
def work_folder(root: Path) -> Iterator[Path]:
    """Yield a new folder in `root` for unfinished files; delete it afterwards. Raises `DiskFull`, `StorageFailed`."""
    with translate_errors(root.name):
        root.mkdir(exist_ok=True)
        work = tempfile.TemporaryDirectory(dir=root, ignore_cleanup_errors=True)
    with work as folder:
        yield Path(folder)


def real_folders(path: Path, prefix: str = "") -> list[str]:
    """Return the sorted names of the folders in `path` that start with `prefix`, without symbolic links."""
    try:
        with os.scandir(path) as entries:
            return sorted(
                entry.name for entry in entries if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False)
            )
    except (FileNotFoundError, NotADirectoryError):
        return []


def make_folder(folder: Path) -> list[Path]:
    """Create a folder and return the folders created, innermost first."""
    created: list[Path] = []
    missing = folder
    while not missing.exists():
        created.append(missing)
        missing = missing.parent
    folder.mkdir(parents=True, exist_ok=True)
    return created


def sync(file: int) -> None:
    os.fsync(file)


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(source: Path, target: Path) -> None:
    """Rename a file on the same disk and sync it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(source, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    source.replace(target)
    sync_folder(target.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Create a hard link, or a copy where the file system has none. Raises `FileNotFoundError`."""
    if not source.is_file():
        raise FileNotFoundError(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            os.link(source, part)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def ignore_missing(_function: object, path: str, problem: tuple[type[BaseException], BaseException, object]) -> None:
    """Ignore missing files in `shutil.rmtree`."""
    if not isinstance(problem[1], FileNotFoundError):
        raise problem[1]
