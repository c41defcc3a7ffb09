"""Folders that other users could change are closed or refused."""

from __future__ import annotations

import grp
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import FolderNotPrivate
from engine.gateway.scratch import create_scratch_dir
from engine.process.private_files import check_code, private_files, private_folder

STRANGER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """Make a folder inside a private one."""
    folder = tmp_path / "parent"
    folder.mkdir(mode=0o755)
    return folder


def test_new_folder_is_closed_whatever_the_umask(parent: Path) -> None:
    before = os.umask(0)
    try:
        assert mode(private_folder(parent / "data")) == 0o700
    finally:
        os.umask(before)


@pytest.mark.parametrize("open_mode", [0o755, 0o775, 0o777])
def test_open_folder_of_ours_is_closed_and_logged(
    parent: Path, open_mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    data = parent / "data"
    data.mkdir()
    (data / "stemify.sqlite3").touch()
    data.chmod(open_mode)
    private_folder(data)
    assert mode(data) == 0o700
    assert f"{data} was open to other users (mode {open_mode:03o})" in caplog.text
    caplog.clear()
    private_folder(data)
    assert not caplog.text


def test_folder_with_other_files_keeps_its_mode(parent: Path) -> None:
    (parent / "letters").touch()
    private_folder(parent)
    assert mode(parent) == 0o755
    parent.chmod(0o777)
    with pytest.raises(FolderNotPrivate, match="they can write to"):
        private_folder(parent)
    assert mode(parent) == 0o777


def test_folder_shared_by_all_is_refused(parent: Path) -> None:
    parent.chmod(0o1777)
    with pytest.raises(FolderNotPrivate, match="inside it"):
        private_folder(parent)
    assert mode(private_folder(parent / "ours")) == 0o700


@pytest.mark.parametrize("levels", [1, 2])
def test_writable_parent_is_refused(parent: Path, levels: int) -> None:
    parent.chmod(0o777)
    folder = parent.joinpath(*["a", "b"][:levels])
    with pytest.raises(FolderNotPrivate, match=f"write to {parent}.*chmod go-w {parent}"):
        private_folder(folder)


def test_private_group_of_owner_is_not_others(parent: Path) -> None:
    if os.getegid() != os.geteuid():
        pytest.skip("this user has no group of the same number")
    parent.chmod(0o775)
    private_folder(parent / "data")


@as_root
def test_parent_writable_by_a_group_is_refused(parent: Path) -> None:
    os.chown(parent, 0, STRANGER)
    parent.chmod(0o775)
    with pytest.raises(FolderNotPrivate):
        private_folder(parent / "data")


@as_root
def test_group_with_another_member_counts_as_others(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent.chmod(0o775)
    group = grp.struct_group(("root", "x", 0, ["alice"]))
    monkeypatch.setattr(grp, "getgrgid", lambda _: group)
    with pytest.raises(FolderNotPrivate):
        private_folder(parent / "data")


@as_root
@pytest.mark.parametrize("foreign", ["data", "data/models", "data/models/kernels"])
def test_folder_below_another_users_folder_is_refused(parent: Path, foreign: str) -> None:
    (parent / "data/models/kernels").mkdir(parents=True)
    os.chown(parent / foreign, STRANGER, STRANGER)
    with pytest.raises(FolderNotPrivate, match=f"{parent / foreign} belongs to another user") as refusal:
        private_folder(parent / "data/models/kernels")
    assert ("chown" in refusal.value.message) == (foreign == "data/models/kernels"), "another user keeps their folder"


@as_root
def test_planted_link_is_refused_and_its_target_kept(parent: Path) -> None:
    target = parent / "target"
    target.mkdir(mode=0o755)
    (parent / "link").symlink_to(target)
    os.chown(parent / "link", STRANGER, STRANGER, follow_symlinks=False)
    with pytest.raises(FolderNotPrivate, match="link belongs to another user"):
        private_folder(parent / "link")
    assert mode(target) == 0o755


@pytest.fixture
def mounted(parent: Path) -> Iterator[Path]:
    """Mount a folder that belongs to another user, as a host's folder in a container."""
    folder = parent / "mounted"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"uid={STRANGER},gid={STRANGER},mode=0755", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_root_may_use_a_mounted_folder_without_code(mounted: Path, caplog: pytest.LogCaptureFixture) -> None:
    private_folder(mounted)
    private_folder(mounted / "models" / "kernels")
    assert f"belongs to user {STRANGER}" in caplog.text
    library = mounted / "models" / "kernels" / "native.so"
    library.touch(mode=0o600)
    with pytest.raises(FolderNotPrivate):
        check_code(library)


def test_code_of_ours_may_be_run(parent: Path) -> None:
    library = private_folder(parent / "kernels") / "native.so"
    library.touch(mode=0o755)
    check_code(library)


def test_code_that_others_can_write_is_refused(parent: Path) -> None:
    library = parent / "native.so"
    library.touch()
    library.chmod(0o666)
    with pytest.raises(FolderNotPrivate, match="write to"):
        check_code(library)
    library.chmod(0o644)
    parent.chmod(0o777)
    with pytest.raises(FolderNotPrivate, match="write to"):
        check_code(library)


@as_root
def test_code_of_another_user_is_refused(parent: Path) -> None:
    library = parent / "native.so"
    library.touch()
    os.chown(library, STRANGER, STRANGER)
    with pytest.raises(FolderNotPrivate, match="belongs to another user"):
        check_code(library)
    (parent / "link.so").symlink_to(library)
    with pytest.raises(FolderNotPrivate, match="belongs to another user"):
        check_code(parent / "link.so")


def test_scratch_of_a_node_is_private(parent: Path) -> None:
    assert mode(create_scratch_dir(parent / "node" / "workers").parent) == 0o700
    parent.chmod(0o777)
    with pytest.raises(FolderNotPrivate):
        create_scratch_dir(parent / "node" / "workers")


def test_files_are_created_for_their_owner_alone(parent: Path) -> None:
    with private_files():
        (parent / "private").touch()
    assert mode(parent / "private") == 0o600
