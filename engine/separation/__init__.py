"""Separate mixes into stems with torch and demucs."""

from __future__ import annotations

from engine.separation.separator import Separator

__all__ = ["Separator"]
