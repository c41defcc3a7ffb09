"""Separation: the rooms that know torch and demucs."""

from __future__ import annotations

from engine.separation.separator import Separator

__all__ = ["Separator"]
