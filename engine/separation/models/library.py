"""The library of models: where each one is, loading it, and keeping the ones in use in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.errors import FolderNotPrivate, ModelCorrupt, ModelUnavailable, UnknownModel
from engine.jobs.options import MODELS
from engine.process.private_files import private_folder
from engine.separation.models.files import load_bag, load_torchaudio_network, missing_for
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.models.sources import (
    FolderSource,
    HubSource,
    LegacySource,
    ModelFiles,
    ModelSource,
    Progress,
    TorchaudioSource,
)

EMBEDDED = Path(__file__).parents[1] / "embedded"


@dataclass(frozen=True)
class ModelState:
    """Whether a model can be used here: on disk, to be fetched at first use, or why not."""

    name: str
    state: Literal["ready", "to_fetch", "unavailable"]
    reason: str | None = None


class ModelLibrary:
    """Safe to use from several threads; a model is fetched and loaded once, however many ask for it."""

    def __init__(
        self,
        models_dir: Path | None,
        cache_dir: Path,
        memory_budget_bytes: int,
        *,
        shelves: Sequence[ModelSource] | None = None,
    ) -> None:
        """`models_dir`: the operator's own folder, looked in first (also for pickles, which can run code).
        `cache_dir`: what is fetched goes here. `memory_budget_bytes`: weights kept in memory; what was not used for
        longest goes first. `shelves`: where to look, in order, if not in the usual places."""
        own = [FolderSource(models_dir, pickles=True)] if models_dir is not None else []
        self._shelves: list[ModelSource] = (
            list(shelves)
            if shelves is not None
            else [
                *own,
                FolderSource(EMBEDDED, pickles=False),
                TorchaudioSource([models_dir] if models_dir is not None else [], cache_dir / "torchaudio"),
                HubSource(cache_dir / "hub"),
                LegacySource(cache_dir / "legacy"),
            ]
        )
        self._cache_dir = cache_dir if shelves is None else None
        self._budget_bytes = memory_budget_bytes
        self._resident: OrderedDict[str, LoadedModel] = OrderedDict()
        self._lock = threading.Lock()
        self._loading: dict[str, threading.Lock] = {}

    @classmethod
    def from_environment(cls) -> ModelLibrary:
        """As the settings say: `STEMIFY_MODELS_DIR`, `STEMIFY_DATA_DIR` and so on."""
        from config.settings import load

        settings = load()
        return cls(settings.models_dir, settings.data_dir / "models", settings.workers.model_memory_bytes)

    def states(self) -> list[ModelState]:
        """Every named model, and whether it can be used; nothing is asked of the network."""
        return [self.state(name) for name in MODELS]

    def state(self, name: str) -> ModelState:
        reason = missing_for(name)
        if reason is not None:
            return ModelState(name, "unavailable", reason)
        try:
            if self._find(name) is not None:
                return ModelState(name, "ready")
        except ModelCorrupt as error:
            return ModelState(name, "unavailable", error.message)
        if name == "mini":
            return ModelState(name, "unavailable", "Its weights are not part of this copy of Stemify.")
        if any(isinstance(shelf, HubSource) and shelf.is_offline for shelf in self._shelves):
            return ModelState(name, "unavailable", "Its weights are not on this machine, and HF_HUB_OFFLINE is set.")
        return ModelState(name, "to_fetch", "Its weights are fetched when it is first used.")

    def load(self, name: str, progress: Progress | None = None) -> LoadedModel:
        """The model, from memory, from disk, or fetched first. Raises `UnknownModel`, `ModelUnavailable`,
        `ModelCorrupt`."""
        self._check(name)
        with self._lock_of(name):
            with self._lock:
                if name in self._resident:
                    self._resident.move_to_end(name)
                    return self._resident[name]
            model = self._load(name, progress or _no_progress)
            with self._lock:
                self._resident[name] = model
                self._make_room()
        return model

    def pull(self, name: str, progress: Progress | None = None) -> None:
        """Fetch a model's files unless they are on this machine. Raises as `load`."""
        self._check(name)
        with self._lock_of(name):
            if self._find(name) is None:
                self._fetch(name, progress or _no_progress)

    def _check(self, name: str) -> None:
        if name not in MODELS:
            raise UnknownModel(f"There is no model {name[:40]!r}. Choose one of: {', '.join(MODELS)}.")
        reason = missing_for(name)
        if reason is not None:
            raise ModelUnavailable(f"The model {name} cannot be used here. {reason}")

    def _lock_of(self, name: str) -> threading.Lock:
        with self._lock:
            return self._loading.setdefault(name, threading.Lock())

    def _load(self, name: str, progress: Progress) -> LoadedModel:
        found = self._find(name)
        if found is None:
            return self._open(name, self._fetch(name, progress))
        try:
            return self._open(name, found)
        except ModelCorrupt:
            if not found.volatile:
                raise
            for file in found.files:
                file.resolve().unlink(missing_ok=True)
                file.unlink(missing_ok=True)
        return self._open(name, self._fetch(name, progress))

    def _open(self, name: str, found: ModelFiles) -> LoadedModel:
        if name == "hdemucs_high" and found.files[0].suffix == ".pt":
            return LoadedModel.of(load_torchaudio_network(found.files[0]), name)
        return LoadedModel.of(load_bag(found.bag, found.files, may_run_code=found.may_run_code), name)

    def _find(self, name: str) -> ModelFiles | None:
        return next((found for shelf in self._shelves if (found := shelf.find(name)) is not None), None)

    def _fetch(self, name: str, progress: Progress) -> ModelFiles:
        if self._cache_dir is not None:
            try:
                private_folder(self._cache_dir)
            except FolderNotPrivate as error:
                raise ModelUnavailable(detail=error.message) from error
        problems: list[ModelUnavailable] = []
        for shelf in self._shelves:
            try:
                found = shelf.fetch(name, progress)
            except ModelUnavailable as error:
                problems.append(error)
                continue
            if found is not None:
                return found
        raise ModelUnavailable(
            f"The weights of {name} are not on this machine and could not be fetched. The model mini needs no "
            f"download. Where there is a network, “python -m engine models pull {name}” fetches them; without one, "
            "put them into the folder that STEMIFY_MODELS_DIR names.",
            detail="; ".join(f"{problem.message} {problem.detail or ''}" for problem in problems) or None,
        )

    def _make_room(self) -> None:
        while len(self._resident) > 1 and sum(m.size_bytes for m in self._resident.values()) > self._budget_bytes:
            self._resident.popitem(last=False)


def _no_progress(done_bytes: int, total_bytes: int | None) -> None:
    return None
