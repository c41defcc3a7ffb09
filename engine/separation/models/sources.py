"""Sources of weights: the operator's folder, the package itself, the Hugging Face hub, demucs' old host.

`find` never uses the network; `fetch` downloads missing files into the source's folder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from demucs.hf import DEFAULT_NAMESPACE, hf_repo_name
from demucs.pretrained import REMOTE_ROOT, ROOT_URL

from engine.errors import ModelCorrupt, ModelUnavailable
from engine.jobs.roformer_config import MELBAND_VOCALS, RoFormerConfig
from engine.separation.models.download import download
from engine.separation.models.files import Bag, read_description
from engine.separation.models.pickles import file_sha256

Progress = Callable[[int, int | None], None]
"""(bytes so far, total bytes if known) of the current download."""

_END_BYTES = 1 << 16
_DEFAULTS = {"melband_vocals": MELBAND_VOCALS}
"""Descriptions of models whose weights may be in a folder without a .yaml."""


@dataclass(frozen=True)
class ModelFiles:
    """A model whose files are all on this machine.

    `volatile`: downloaded, so they may be deleted and downloaded again. `may_run_code`: from the operator's folder.
    """

    description: Bag | RoFormerConfig
    files: list[Path]
    volatile: bool = False
    may_run_code: bool = False

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    def version(self) -> str | None:
        """Return a short hash that changes with the weights and their description; None if a file cannot be read.

        It covers the size and both ends of each file: weights differ there too, and reading a gigabyte takes seconds.
        """
        digest = hashlib.sha256(repr(self.description).encode())
        try:
            for path in self.files:
                with path.open("rb") as file:
                    size = file.seek(0, os.SEEK_END)
                    digest.update(str(size).encode())
                    for start in (0, max(0, size - _END_BYTES)):
                        file.seek(start)
                        digest.update(file.read(_END_BYTES))
        except OSError:
            return None
        return digest.hexdigest()[:16]


class ModelSource(Protocol):
    def find(self, model: str) -> ModelFiles | None:
        """Return the files if all are on this machine. Raises `ModelCorrupt` for an invalid description."""
        ...

    def fetch(self, model: str, progress: Progress) -> ModelFiles | None:
        """Download the files; None if this source lacks the model. Raises `ModelUnavailable` if unreachable."""
        ...


class FolderSource:
    """A folder in the formats of demucs and of RoFormer's training programs.

    Either `<model>.yaml` with `<signature>.safetensors` or `<signature>-<checksum>.th`, or a single network as
    `<model>.safetensors` or `.th`. A RoFormer is `<model>.yaml` with `<model>.safetensors` or `.ckpt`.
    """

    def __init__(self, folder: Path, *, pickles: bool) -> None:
        """`pickles`: whether to accept .th and .ckpt files, which can run code."""
        self._folder = folder
        self._pickles = pickles

    def find(self, model: str) -> ModelFiles | None:
        path = self._folder / f"{model}.yaml"
        description = read_description(path) if path.is_file() else _DEFAULTS.get(model) or Bag((model,))
        members = description.members if isinstance(description, Bag) else (model,)
        files = [self._file(member) for member in members]
        present = [file for file in files if file is not None]
        return ModelFiles(description, present, may_run_code=self._pickles) if len(present) == len(files) else None

    def fetch(self, model: str, progress: Progress) -> ModelFiles | None:
        return None

    def _file(self, signature: str) -> Path | None:
        plain = self._folder / f"{signature}.safetensors"
        if plain.is_file():
            return plain
        if not self._pickles:
            return None
        patterns = (f"{signature}.th", f"{signature}-*.th", f"{signature}.ckpt")
        found = sorted(path for pattern in patterns for path in self._folder.glob(pattern))
        if len(found) > 1:
            raise ModelCorrupt(
                f"The models folder has several files of {signature}. Ask the bot's operator to keep one."
            )
        return found[0] if found else None


class HubSource:
    """The Hugging Face hub, and its cache."""

    def __init__(self, cache: Path, *, endpoint: str | None = None, namespace: str = DEFAULT_NAMESPACE) -> None:
        self._cache = cache
        self._endpoint = endpoint or hub_endpoint()
        self._namespace = namespace

    def find(self, model: str) -> ModelFiles | None:
        description = self._cached(model, f"{model}.yaml")
        if description is None:
            return None
        bag = Bag.read(description)
        files = [self._cached(model, f"{member}.safetensors") for member in bag.members]
        present = [file for file in files if file is not None]
        return ModelFiles(bag, present, volatile=True) if len(present) == len(files) else None

    def fetch(self, model: str, progress: Progress) -> ModelFiles | None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

        if is_offline():
            raise ModelUnavailable(detail="HF_HUB_OFFLINE is set")
        try:
            # hf_hub_download retries for half a minute if the host does not respond; this request fails at once.
            get_hf_file_metadata(hf_hub_url(self._repo(model), f"{model}.yaml", endpoint=self._endpoint))
            bag = Bag.read(self._download(model, f"{model}.yaml", progress))
            files = [self._download(model, f"{member}.safetensors", progress) for member in bag.members]
        except (RepositoryNotFoundError, EntryNotFoundError, GatedRepoError):
            return None
        except ModelUnavailable:
            raise
        except Exception as error:  # the hub's client does not wrap errors of httpx, sockets and files
            raise ModelUnavailable(
                f"The weights of {model} could not be downloaded from {self._endpoint}.", detail=repr(error)
            ) from error
        return ModelFiles(bag, files, volatile=True)

    def _repo(self, model: str) -> str:
        return f"{self._namespace}/{hf_repo_name(model)}"

    def _cached(self, model: str, filename: str) -> Path | None:
        # The hub's documented cache layout; importing its client would delay a worker's start.
        folder = self._cache / f"models--{self._repo(model).replace('/', '--')}"
        revision = folder / "refs/main"
        if not revision.is_file():
            return None
        path = folder / "snapshots" / revision.read_text().strip() / filename
        return path if path.is_file() else None

    def _download(self, model: str, filename: str, progress: Progress) -> Path:
        from huggingface_hub import hf_hub_download

        path = Path(
            hf_hub_download(
                self._repo(model),
                filename,
                cache_dir=self._cache,
                endpoint=self._endpoint,
                tqdm_class=_reporting(progress),
            )
        )
        checksum = path.resolve().name  # large files are named by their SHA-256
        if len(checksum) == 64 and file_sha256(path) != checksum:
            path.resolve().unlink()
            path.unlink()
            raise ModelUnavailable(f"{filename} of {model} was damaged during the download. Try again.")
        return path


class LegacySource:
    """The host that demucs used before the hub; the demucs package has the checksum of each pickle."""

    def __init__(
        self, cache: Path, *, root_url: str = ROOT_URL, files: Mapping[str, str] | None = None, bags: Path = REMOTE_ROOT
    ) -> None:
        """`files`: signature → path under `root_url`, its name ending in `-<checksum>.th`."""
        self._cache = cache
        self._root_url = root_url
        self._files = demucs_files() if files is None else files
        self._bags = bags

    def find(self, model: str) -> ModelFiles | None:
        bag = self._bag(model)
        if bag is None:
            return None
        paths = [self._cache / Path(self._files[member]).name for member in bag.members]
        return ModelFiles(bag, paths, volatile=True) if all(path.is_file() for path in paths) else None

    def fetch(self, model: str, progress: Progress) -> ModelFiles | None:
        bag = self._bag(model)
        if bag is None:
            return None
        paths = []
        for member in bag.members:
            path = self._cache / Path(self._files[member]).name
            checksum = path.stem.rpartition("-")[2]
            download(self._root_url + self._files[member], path, checksum=checksum, progress=progress)
            paths.append(path)
        return ModelFiles(bag, paths, volatile=True)

    def _bag(self, model: str) -> Bag | None:
        description = self._bags / f"{model}.yaml"
        if not description.is_file():
            return None
        bag = Bag.read(description)
        return bag if all(member in self._files for member in bag.members) else None


class TorchaudioSource:
    """torchaudio's model. Its weights have no known checksum, but are loaded as plain tensors only."""

    url = "https://download.pytorch.org/torchaudio/models/hdemucs_high_trained.pt"

    def __init__(self, folders: list[Path], cache: Path) -> None:
        self._folders = folders
        self._cache = cache

    def find(self, model: str) -> ModelFiles | None:
        if model != "hdemucs_high":
            return None
        for folder in (*self._folders, self._cache):
            path = folder / "hdemucs_high_trained.pt"
            if path.is_file():
                return ModelFiles(Bag((model,)), [path], volatile=folder == self._cache)
        return None

    def fetch(self, model: str, progress: Progress) -> ModelFiles | None:
        if model != "hdemucs_high":
            return None
        path = self._cache / "hdemucs_high_trained.pt"
        download(self.url, path, checksum=None, progress=progress)
        return ModelFiles(Bag((model,)), [path], volatile=True)


def is_offline() -> bool:
    """Return whether the operator forbids downloads."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def hub_endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def demucs_files() -> dict[str, str]:
    """Return {signature: path on demucs' old host}, from the list in the demucs package."""
    root, found = "", {}
    for line in map(str.strip, (REMOTE_ROOT / "files.txt").read_text().splitlines()):
        if line.startswith("root:"):
            root = line.removeprefix("root:").strip()
        elif line and not line.startswith("#"):
            found[line.partition("-")[0]] = root + line
    return found


def _reporting(progress: Progress) -> Any:
    """Return a tqdm class that draws nothing and calls `progress`."""
    from huggingface_hub.utils.tqdm import tqdm

    class Reporting(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            start: Callable[..., None] = super().__init__
            start(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            self.n += n or 0
            progress(int(self.n), None if self.total is None else int(self.total))
            return None

    return Reporting
