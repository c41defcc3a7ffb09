"""Entities enforce the data model; jobs only move forward."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.jobs.entity import id_time, new_job_id
from engine.jobs.job import (
    ACTIVE_STATUSES,
    STAGE_SPANS,
    TERMINAL_STATUSES,
    TRANSITIONS,
    Job,
    JobStatus,
    Stage,
    overall_progress,
)
from engine.jobs.options import STEMS, OutputFormat, Quality, StemSeparationOptions
from engine.jobs.results import JobResult, ProcessingMetrics, QualityMetrics, StemFiles, StemInfo, TrustCard, db
from engine.web.schemas import JobStatusResponse, StemifyRequest, StemifyResponse

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ID = new_job_id(NOW)
STEM = StemInfo(
    filename="vocals.mp3",
    path=f"jobs/{ID}/a1/vocals.mp3",
    size=10,
    duration=1.5,
    format=OutputFormat.MP3,
    sample_rate=44100,
)
RESULT = JobResult(
    job_id=ID,
    output_dir=f"jobs/{ID}/a1",
    stems=StemFiles(vocals=STEM),
    processing_time=3,
    model_used="mini",
    file_size=10,
)


def job(**changes: Any) -> Job:
    values: dict[str, Any] = {
        "id": ID,
        "status": "pending",
        "created_at": NOW,
        "updated_at": NOW,
        "input_type": "file_upload",
        "input_source": f"jobs/{ID}/input",
        "model": "htdemucs",
        "options": {"model": "htdemucs"},
        "estimated_duration": 30,
        "owner": "discord:1",
    }
    return Job.model_validate(values | changes)


# The lifecycle.

LEGAL = {("pending", "processing"), ("pending", "failed"), ("processing", "completed"), ("processing", "failed")}


def test_transitions_equal_data_model() -> None:
    assert {(before, after) for before, following in TRANSITIONS.items() for after in following} == LEGAL


def test_every_status_is_active_or_terminal() -> None:
    assert set(TRANSITIONS) == set(JobStatus)
    assert {"completed", "failed"} == TERMINAL_STATUSES
    assert {"pending", "processing"} == ACTIVE_STATUSES


def test_every_job_can_reach_terminal_status() -> None:
    for start in ACTIVE_STATUSES:
        reached: set[JobStatus] = set()
        waiting = set(TRANSITIONS[start])
        while waiting:
            status = waiting.pop()
            reached.add(status)
            waiting |= TRANSITIONS[status] - reached
        assert start not in reached, "a status must not repeat"
        assert reached >= TERMINAL_STATUSES


# Validation.


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "17"},
        {"id": ""},
        {"id": f"../{ID}"},
        {"status": "queued"},
        {"status": "cancelled"},
        {"model": "spleeter"},
        {"model": "htdemucs_ft"},  # differs from the options
        {"progress": -1},
        {"progress": 101},
        {"progress": "half"},
        {"input_source": ""},
        {"input_source": None},
        {"input_source": "/etc/passwd"},
        {"input_source": "jobs/../keys/links.key"},
        {"input_source": "jobs//input"},
        {"input_source": "jobs/a\0b"},
        {"input_type": "carrier_pigeon"},
        {"input_type": "youtube_url", "input_source": "jobs/x/input"},
        {"input_type": "youtube_url", "input_source": "https://example.org/watch?v=dQw4w9WgXcQ"},
        {"input_type": "youtube_url", "input_source": "https://www.youtube.com/watch?v=dQw4w9WgXcQ&list=1"},
        {"created_at": datetime(2026, 1, 1)},  # noqa: DTZ001 - no time zone
        {"updated_at": "yesterday"},
        {"estimated_duration": -1},
        {"actual_duration": -1},
        {"owner": ""},
        {"attempt": -1},
        {"stage": "thinking"},
        {"input_size": -1},
        {"retry_of": "the other one"},
        {"surprise": 1},
        {"status": "completed"},  # without a result
        {"status": "failed"},  # without an error
        {"result": RESULT},  # while pending
        {"error": "no"},  # while pending
        {"status": "completed", "result": RESULT, "error": "no"},
        {"status": "completed", "result": RESULT.model_copy(update={"job_id": new_job_id()})},
    ],
)
def test_invalid_job_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        job(**changes)


@pytest.mark.parametrize(
    "missing",
    [
        "id",
        "status",
        "created_at",
        "updated_at",
        "input_type",
        "input_source",
        "model",
        "options",
        "estimated_duration",
    ],
)
def test_job_without_required_field_is_refused(missing: str) -> None:
    values = job().model_dump(exclude={missing})
    with pytest.raises(ValidationError):
        Job.model_validate(values)


def test_valid_jobs_are_accepted() -> None:
    assert job().progress == 0
    assert job(progress=100).progress == 100
    assert job(id=str(uuid4())).is_over is False
    assert job(status="completed", result=RESULT).is_over
    assert job(status="failed", error="Cancelled.", error_code="cancelled").was_cancelled
    assert job(input_type="youtube_url", input_source="https://www.youtube.com/watch?v=dQw4w9WgXcQ").result is None


def test_job_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        job().status = JobStatus.FAILED


def test_job_id_is_normalized() -> None:
    assert job(id=ID.upper()).id == job(id=f"{{{ID}}}").id == ID


def test_job_round_trips_through_camel_case_json() -> None:
    whole = job(status="completed", result=RESULT, progress=100, actual_duration=3, attempt=1)
    wire = whole.model_dump_json(by_alias=True)
    assert '"createdAt"' in wire and '"outputDir"' in wire and "created_at" not in wire
    assert Job.model_validate_json(wire) == whole
    assert Job.model_validate_json(whole.model_dump_json()) == whole


# Results.


@pytest.mark.parametrize(
    "changes",
    [
        {"size": -1},
        {"duration": -0.5},
        {"sample_rate": 0},
        {"format": "ogg"},
        {"silence_share": 1.5},
    ],
)
def test_invalid_stem_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        StemInfo.model_validate(STEM.model_dump() | changes)


@pytest.mark.parametrize("score", [-0.01, 1.01, float("nan"), float("inf"), None])
def test_invalid_overall_score_is_refused(score: float | None) -> None:
    with pytest.raises(ValidationError):
        QualityMetrics.model_validate({"overall_score": score, "method": "m"})


def test_metrics_have_fields_of_data_model() -> None:
    assert set(QualityMetrics.model_fields) >= {
        "overall_score", "vocal_isolation", "drum_separation", "bass_isolation", "artifact_reduction", "method",
    }  # fmt: skip
    assert set(ProcessingMetrics.model_fields) >= {
        "processing_time", "cpu_usage", "memory_usage", "gpu_usage", "model_load_time", "input_file_size",
        "output_file_sizes",
    }  # fmt: skip
    with pytest.raises(ValidationError):
        ProcessingMetrics(processing_time=-1, cpu_usage=0, memory_usage=0, model_load_time=0, input_file_size=0)


def test_all_fields_of_data_model_exist() -> None:
    assert set(Job.model_fields) >= {
        "id", "status", "created_at", "updated_at", "input_type", "input_source", "model", "options", "progress",
        "result", "error", "estimated_duration", "actual_duration",
    }  # fmt: skip
    assert set(JobResult.model_fields) >= {
        "job_id", "output_dir", "stems", "processing_time", "model_used", "quality_metrics", "file_size", "cdn_urls",
    }  # fmt: skip
    assert set(StemFiles.model_fields) >= {"vocals", "drums", "bass", "other"}
    assert set(StemInfo.model_fields) >= {
        "filename", "path", "size", "duration", "format", "sample_rate", "bitrate", "cdn_url",
    }  # fmt: skip
    assert set(StemSeparationOptions.model_fields) >= {
        "model", "quality", "output_format", "normalize", "remove_vocals", "segment_duration", "overlap_duration",
    }  # fmt: skip
    assert set(OutputFormat) == {"wav", "mp3", "flac", "stem"}
    assert set(Quality) == {"fast", "balanced", "best"}


def test_api_uses_names_of_data_model() -> None:
    answer = StemifyResponse(job_id=ID, estimated_duration=30, message="Queued.").model_dump(by_alias=True, mode="json")
    assert answer == {"jobId": ID, "status": "pending", "estimatedDuration": 30, "message": "Queued."}
    state = JobStatusResponse(job_id=ID, status=JobStatus.PROCESSING, progress=5, created_at=NOW, updated_at=NOW)
    assert set(state.model_dump(by_alias=True)) == {
        "jobId", "status", "progress", "result", "error", "createdAt", "updatedAt",
    }  # fmt: skip
    request = StemifyRequest.model_validate({"youtubeUrl": "x", "options": {"outputFormat": "wav"}})
    assert request.options is not None and request.options.output_format == "wav"


def test_stems_are_listed_in_display_order() -> None:
    files = StemFiles(**dict.fromkeys(reversed((*STEMS, "instrumental")), STEM))
    assert [name for name, _ in files] == ["vocals", "drums", "bass", "guitar", "piano", "other", "instrumental"]
    assert [name for name, _ in StemFiles(drums=STEM)] == ["drums"]


def test_trust_card_refuses_overlap_of_one() -> None:
    with pytest.raises(ValidationError):
        TrustCard(
            residual_db=None,
            gain_db=0,
            clipped_samples=0,
            seed=1,
            shifts=0,
            overlap=1.0,
            segment_s=1,
            segments=1,
            device="cpu",
        )


# Progress.


def test_stages_have_no_gaps() -> None:
    assert list(STAGE_SPANS) == list(Stage)
    spans = list(STAGE_SPANS.values())
    assert spans[0][0] == 0 and spans[-1][1] == 100
    assert all(before[1] == after[0] for before, after in pairwise(spans))


@given(st.sampled_from(list(Stage)), st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_progress_increases_and_stays_below_100(stage: Stage, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= overall_progress(stage, low) <= overall_progress(stage, high) <= 99


# Ids.


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9000, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_id_contains_time_of_creation(at: datetime) -> None:
    made = new_job_id(at)
    value = UUID(made)
    assert (value.version, value.variant) == (7, "specified in RFC 4122")
    assert abs(id_time(made) - at) < timedelta(milliseconds=2)


def test_ids_sort_by_age_and_are_unique() -> None:
    ids = [new_job_id(NOW + timedelta(milliseconds=step)) for step in range(500)]
    assert ids == sorted(ids)
    assert len({new_job_id(NOW) for _ in range(2000)}) == 2000


def test_db_of_zero_or_non_finite_is_none() -> None:
    assert db(1.0) == 0
    assert db(0.1) == pytest.approx(-20)
    assert db(0.0) is db(-1.0) is db(float("nan")) is db(float("inf")) is None
