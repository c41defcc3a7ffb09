"""Find, download and load models, and keep the recently used ones in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import BadOptions, FolderNotPrivate, ModelCorrupt, ModelUnavailable
from engine.jobs.models import MODELS, STATES, State, add_own_models, join_versions, steps_of, unknown_model
from engine.jobs.roformer_config import RoFormerConfig
from engine.process.private_files import private_folder
from engine.separation.models.files import load_bag, load_torchaudio_network, missing_for
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.models.pinned_source import PinnedSource
from engine.separation.models.roformer_files import load_roformer
from engine.separation.models.sources import (
    FolderSource,
    HubSource,
    LegacySource,
    ModelFiles,
    ModelSource,
    Progress,
    TorchaudioSource,
    is_offline,
)

EMBEDDED = Path(__file__).parents[1] / "embedded"


@dataclass(frozen=True)
class ModelAvailability:
    """Whether a model can be used: on disk, downloaded at first use, or unavailable with a reason."""

    name: str
    state: State
    reason: str | None = None
    files: tuple[ModelFiles, ...] = ()  # of each step, if all are on this machine

    @property
    def version(self) -> str | None:
        return join_versions([each.version() for each in self.files])

    @property
    def size_bytes(self) -> int | None:
        return sum(each.size_bytes for each in self.files) if self.files else None


class ModelLibrary:
    """Loads each model once. Thread-safe."""

    def __init__(
        self,
        models_dir: Path | None,
        cache_dir: Path,
        memory_budget_bytes: int,
        *,
        sources: Sequence[ModelSource] | None = None,
    ) -> None:
        """Look for models in the operator's folder, the package, torchaudio's cache, and at their hosts.

        `models_dir`: the operator's folder; its pickles may run code. `cache_dir`: where downloads go.
        `memory_budget_bytes`: for weights in memory; the least recently used are dropped first.
        `sources`: replaces the list of sources.
        """
        own = [FolderSource(models_dir, pickles=True)] if models_dir is not None else []
        self._sources: list[ModelSource] = (
            list(sources)
            if sources is not None
            else [
                *own,
                FolderSource(EMBEDDED, pickles=False),
                TorchaudioSource([models_dir] if models_dir is not None else [], cache_dir / "torchaudio"),
                HubSource(cache_dir / "hub"),
                PinnedSource(cache_dir / "roformer"),
                LegacySource(cache_dir / "legacy"),
            ]
        )
        self._cache_dir = cache_dir if sources is None else None
        self._budget_bytes = memory_budget_bytes
        self._resident: OrderedDict[str, LoadedModel] = OrderedDict()
        self._lock = threading.Lock()
        self._loading: dict[str, threading.Lock] = {}

    @classmethod
    def from_environment(cls) -> ModelLibrary:
        """Return the library that the settings describe."""
        from config.settings import load

        settings = load()
        add_own_models(settings.models_dir)
        return cls(settings.models_dir, settings.data_dir / "models", settings.workers.model_memory_bytes)

    def states(self) -> list[ModelAvailability]:
        """Return the state of every named model, without network access."""
        return [self.state(name) for name in MODELS]

    def state(self, name: str) -> ModelAvailability:
        if len(steps := steps_of(name)) > 1:
            parts = [self.state(step) for step in steps]
            worst = max(parts, key=lambda part: STATES.index(part.state))
            files = tuple(file for part in parts for file in part.files) if worst.state == "ready" else ()
            reason = f"{worst.name}: {worst.reason}" if worst.reason else None
            return ModelAvailability(name, worst.state, reason, files)
        reason = missing_for(name)
        if reason is not None:
            return ModelAvailability(name, "unavailable", reason)
        try:
            if (found := self._find(name)) is not None:
                return ModelAvailability(name, "ready", files=(found,))
        except ModelCorrupt as error:
            return ModelAvailability(name, "unavailable", error.message)
        if name == "mini":
            return ModelAvailability(name, "unavailable", "Its weights are not part of this copy of Stemify.")
        if is_offline():
            return ModelAvailability(
                name, "unavailable", "Its weights are not on this machine, and HF_HUB_OFFLINE is set."
            )
        return ModelAvailability(name, "to_fetch", "Its weights are downloaded at first use.")

    def load(self, name: str, progress: Progress | None = None) -> LoadedModel:
        """Return a model from memory or disk, or download it first; `load_steps` also takes one of several steps.

        Raises `UnknownModel`, `ModelUnavailable`, `ModelCorrupt`.
        """
        self._check(name)
        with self._lock_of(name):
            with self._lock:
                if name in self._resident:
                    self._resident.move_to_end(name)
                    return self._resident[name]
            model = self._load(name, progress or _no_progress)
            with self._lock:
                self._resident[name] = model
                self._evict()
        return model

    def load_steps(self, name: str) -> tuple[LoadedModel, ...]:
        """Return the models that run for a model, one after the other. Raises like `load`."""
        return tuple(self.load(step) for step in steps_of(name))

    def pull(self, name: str, progress: Progress | None = None) -> None:
        """Download a model's files unless they are on this machine. Raises like `load`."""
        for step in steps_of(name):
            self._check(step)
            with self._lock_of(step):
                if self._find(step) is None:
                    self._fetch(step, progress or _no_progress)

    def _check(self, name: str) -> None:
        if name not in MODELS:
            raise unknown_model(name)
        if len(steps := steps_of(name)) > 1:
            raise BadOptions(f"The model {name} runs {' and '.join(steps)} one after the other. Load each of them.")
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
        version = found.version()
        if name == "hdemucs_high" and found.files[0].suffix == ".pt":
            return LoadedModel.of(load_torchaudio_network(found.files[0]), name, version)
        if isinstance(found.description, RoFormerConfig):
            network = load_roformer(found.description, found.files[0], may_run_code=found.may_run_code)
            return LoadedModel.of(network, name, version)
        return LoadedModel.of(load_bag(found.description, found.files, may_run_code=found.may_run_code), name, version)

    def _find(self, name: str) -> ModelFiles | None:
        return next((found for source in self._sources if (found := source.find(name)) is not None), None)

    def _fetch(self, name: str, progress: Progress) -> ModelFiles:
        if self._cache_dir is not None:
            try:
                private_folder(self._cache_dir)
            except FolderNotPrivate as error:
                raise ModelUnavailable(detail=error.message) from error
        problems: list[ModelUnavailable] = []
        for source in self._sources:
            try:
                found = source.fetch(name, progress)
            except ModelUnavailable as error:
                problems.append(error)
                continue
            if found is not None:
                return found
        raise ModelUnavailable(
            f"The weights of {name} are not on this machine and could not be downloaded. The model mini needs no "
            f"download. With a network, run “python -m engine models pull {name}”; without one, put them into the "
            "folder that STEMIFY_MODELS_DIR names.",
            detail="; ".join(f"{problem.message} {problem.detail or ''}" for problem in problems) or None,
        )

    def _evict(self) -> None:
        while len(self._resident) > 1 and sum(m.size_bytes for m in self._resident.values()) > self._budget_bytes:
            self._resident.popitem(last=False)


def _no_progress(done_bytes: int, total_bytes: int | None) -> None:
    return None
