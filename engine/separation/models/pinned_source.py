"""Weights at fixed addresses, each with its whole SHA-256."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ModelUnavailable
from engine.jobs.roformer_config import MELBAND_VOCALS, RoFormerConfig
from engine.separation.models.download import download
from engine.separation.models.sources import ModelFiles, Progress, hub_endpoint, is_offline


@dataclass(frozen=True)
class PinnedFile:
    """A file in a repository of the Hugging Face hub."""

    repository: str
    revision: str
    name: str
    sha256: str

    @property
    def path(self) -> str:
        return f"{self.repository}/resolve/{self.revision}/{self.name}"


@dataclass(frozen=True)
class PinnedModel:
    """`files`: the same weights at different places, the preferred one first."""

    description: RoFormerConfig
    files: Sequence[PinnedFile]


PINNED = {
    "melband_vocals": PinnedModel(
        MELBAND_VOCALS,
        (
            PinnedFile(
                "Ryan5453/unblend",
                "9ba75778acf1b64fc40a9ea05137a2c6af9cd1d5",
                "melband_roformer_kim.safetensors",
                "03bfc70b43df1f3e92ed1e582e8b18983f8d4adcd1a7d2133ada3b2f371b3095",
            ),
            PinnedFile(
                "KimberleyJSN/melbandroformer",
                "ac9b0614ab3cd7f77219e18ba494dfd93956c348",
                "MelBandRoformer.ckpt",
                "87201f4d31afb5bc79993230fc49446918425574db48c01c405e44f365c7559e",
            ),
        ),
    )
}


class PinnedSource:
    def __init__(self, cache: Path, *, endpoint: str | None = None, models: Mapping[str, PinnedModel] = PINNED) -> None:
        self._cache = cache
        self._endpoint = endpoint or hub_endpoint()
        self._models = models

    def find(self, model: str) -> ModelFiles | None:
        pinned = self._models.get(model)
        if pinned is None:
            return None
        paths = [self._cache / file.name for file in pinned.files]
        path = next((path for path in paths if path.is_file()), None)
        return None if path is None else ModelFiles(pinned.description, [path], volatile=True)

    def fetch(self, model: str, progress: Progress) -> ModelFiles | None:
        pinned = self._models.get(model)
        if pinned is None:
            return None
        if is_offline():
            raise ModelUnavailable(detail="HF_HUB_OFFLINE is set")
        problems: list[ModelUnavailable] = []
        for file in pinned.files:
            path = self._cache / file.name
            try:
                download(f"{self._endpoint}/{file.path}", path, checksum=file.sha256, progress=progress)
            except ModelUnavailable as error:
                problems.append(error)
            else:
                return ModelFiles(pinned.description, [path], volatile=True)
        raise ModelUnavailable(
            problems[0].message, detail="; ".join(f"{each.message} {each.detail or ''}".strip() for each in problems)
        )
