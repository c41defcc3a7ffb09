"""The local disk: files that appear whole, names that survive a power cut, and its errors as ours."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import DiskFull, StorageFailed, is_disk_full


@contextmanager
def translate_errors(key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        detail = f"{key}: {type(error).__name__}: {error}"
        if is_disk_full(error):
            raise DiskFull(detail=detail) from error
        raise StorageFailed(detail=detail) from error


def real_folders(path: Path, beginning: str = "") -> list[str]:
    """Names of the real folders in `path` that begin so, oldest name first."""
    try:
        with os.scandir(path) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.name.startswith(beginning) and entry.is_dir(follow_symlinks=False)
            )
    except (FileNotFoundError, NotADirectoryError):
        return []


def make_folder(folder: Path) -> list[Path]:
    """The folders that had to be made, innermost first."""
    made: list[Path] = []
    missing = folder
    while not missing.exists():
        made.append(missing)
        missing = missing.parent
    folder.mkdir(parents=True, exist_ok=True)
    return made


def sync(file: int) -> None:
    os.fsync(file)


def sync_folder(folder: Path) -> None:
    """So that the name survives a power cut, too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(source, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    source.replace(target)
    sync_folder(target.parent)


def link_or_copy(source: Path, target: Path) -> None:
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
    if not isinstance(problem[1], FileNotFoundError):
        raise problem[1]
