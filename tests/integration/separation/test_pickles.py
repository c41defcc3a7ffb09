"""Pickled weights, whose code runs only from the operator's folder."""

from __future__ import annotations

import zipfile
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demucs.htdemucs import HTDemucs

from engine.errors import ModelCorrupt
from engine.separation.models import pickles
from engine.separation.models.files import load_network
from engine.separation.models.pickles import KNOWN_SHA256, has_checksum
from engine.separation.models.sources import FolderSource, demucs_files
from tests.fixtures.model_files import library, pickled
from tests.fixtures.tiny_models import HTDEMUCS, SOURCES, tiny_htdemucs


class RunsCode:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def harmful(path: Path, marker: Path) -> Path:
    """Write a network of demucs with code in its metrics."""
    path.parent.mkdir(parents=True, exist_ok=True)
    package = {"klass": HTDemucs, "args": (SOURCES,), "kwargs": dict(HTDEMUCS), "state": tiny_htdemucs(5).state_dict()}
    torch.save({**package, "training_args": {"epochs": 3}, "metrics": (RunsCode(marker),)}, path)
    return path


def test_code_in_downloaded_pickle_does_not_run(tmp_path: Path) -> None:
    path = harmful(tmp_path / "cache/eeee4444.th", tmp_path / "ran")
    with pytest.raises(ModelCorrupt):
        load_network(path)
    assert not (tmp_path / "ran").exists()


def test_code_in_operators_pickle_runs(tmp_path: Path) -> None:
    harmful(tmp_path / "own/htdemucs.th", tmp_path / "ran")
    library(tmp_path, FolderSource(tmp_path / "own", pickles=True)).load("htdemucs")
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["own/htdemucs.th", "own"])
def test_operators_pickle_that_others_can_write_is_refused(tmp_path: Path, place: str) -> None:
    harmful(tmp_path / "own/htdemucs.th", tmp_path / "ran")
    (tmp_path / place).chmod(0o777)
    with pytest.raises(ModelCorrupt) as refusal:
        library(tmp_path, FolderSource(tmp_path / "own", pickles=True)).load("htdemucs")
    assert "can write to" in (refusal.value.detail or "") and not (tmp_path / "ran").exists()


def test_plain_pickle_that_others_can_write_is_read(tmp_path: Path) -> None:
    pickled(tmp_path / "own", "htdemucs").chmod(0o666)
    library(tmp_path, FolderSource(tmp_path / "own", pickles=True)).load("htdemucs")


def test_numpy_metrics_of_published_pickles_are_read(tmp_path: Path) -> None:
    path = tmp_path / "eeee4444.th"
    package = {"klass": HTDemucs, "args": (SOURCES,), "kwargs": dict(HTDEMUCS), "state": tiny_htdemucs(5).state_dict()}
    metrics = ({"nsdr": np.float64(7.5), "count": np.int64(3), "loss": np.float32(0.1)},)
    torch.save({**package, "training_args": {"seed": 42, "segment": Fraction(39, 5)}, "metrics": metrics}, path)
    as_numpy_1 = path.with_name("ffff5555.th")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(as_numpy_1, "w") as new:
        for name in old.namelist():
            new.writestr(name.replace("eeee4444", "ffff5555"), old.read(name).replace(b"numpy._core", b"numpy.core"))
    assert b"numpy.core" in as_numpy_1.read_bytes()
    for file in (path, as_numpy_1):
        assert isinstance(load_network(file), HTDemucs)


def test_known_checksums_are_compared_whole(tmp_path: Path) -> None:
    names = [path.rpartition("-")[2].removesuffix(".th") for path in demucs_files().values()]
    assert all(sum(known.startswith(name) for name in names) == 1 for known in KNOWN_SHA256)
    file = tmp_path / "file"
    file.write_bytes(b"weights")
    digest = sha256(b"weights").hexdigest()
    assert has_checksum(file, digest[:8]) and not has_checksum(file, "") and not has_checksum(file, "0" * 8)


def test_file_that_shares_only_first_digits_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"weights")
    digest = sha256(b"weights").hexdigest()
    monkeypatch.setattr(pickles, "KNOWN_SHA256", (digest[:8] + "0" * 56,))
    assert not has_checksum(file, digest[:8])


def test_name_with_empty_checksum_is_rejected(tmp_path: Path) -> None:
    path = pickled(tmp_path / "own", "htdemucs")
    path.rename(path.with_name("htdemucs-.th"))
    with pytest.raises(ModelCorrupt):
        library(tmp_path, FolderSource(tmp_path / "own", pickles=True)).load("htdemucs")
