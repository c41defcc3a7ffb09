"""Base of the data model's entities, and job ids.

JSON uses camelCase field names (`model_dump(by_alias=True)`); input may use either spelling. Entities are frozen.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Entity(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        protected_namespaces=(),
    )


def _job_id(value: str) -> str:
    return str(UUID(value))


JobId = Annotated[str, AfterValidator(_job_id)]


def new_job_id(at: datetime | None = None) -> str:
    """Return a UUIDv7 (RFC 9562): the time in milliseconds, then 74 random bits, so that ids sort by age."""
    at_ms = int(at.timestamp() * 1000) if at else time.time_ns() // 1_000_000
    value = (at_ms & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(UUID(int=value))


def id_time(job_id: str) -> datetime:
    """Return the creation time of a UUIDv7."""
    return datetime.fromtimestamp((UUID(job_id).int >> 80) / 1000, tz=UTC)
