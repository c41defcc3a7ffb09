from __future__ import annotations

from datetime import UTC, datetime

import pytest

from engine.jobs.entity import new_job_id
from engine.jobs.estimates import estimate_s, eta_s, first_guess, is_long_enough_to_learn, remaining_s, timeout_s
from engine.jobs.job import InputType, Job, JobStatus
from engine.jobs.models import MODELS
from engine.jobs.options import Quality, StemSeparationOptions

LIMITS = {"short_track_s": 300.0, "short_s": 300.0, "long_s": 600.0}


def job(status: JobStatus, estimated_duration: int) -> Job:
    now = datetime.now(UTC)
    return Job(
        id=new_job_id(),
        status=status,
        created_at=now,
        updated_at=now,
        input_type=InputType.FILE_UPLOAD,
        input_source="jobs/x/input",
        model="mini",
        options=StemSeparationOptions(model="mini"),
        estimated_duration=estimated_duration,
        owner="local",
    )


def test_timeout_depends_on_track_length() -> None:
    assert timeout_s(300, 10, **LIMITS) == 300
    assert timeout_s(301, 10, **LIMITS) == 600


def test_slow_device_gets_longer_timeout() -> None:
    assert timeout_s(300, 1500, **LIMITS) == 4500


def test_estimate_grows_with_song_and_is_never_zero() -> None:
    assert estimate_s(0.0001) >= 1
    assert estimate_s(200) > estimate_s(100)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_has_first_guess_gpu_faster(model: str) -> None:
    assert 0 < first_guess(model, Quality.BALANCED, "NVIDIA H200") < first_guess(model, Quality.BALANCED, "cpu")


def test_running_job_eta_uses_its_own_pace() -> None:
    running = job(JobStatus.PROCESSING, 1000)
    assert remaining_s(running, 50, 10.0) == pytest.approx(10.0)
    assert remaining_s(running, 5, 1.0) == pytest.approx(950.0)


def test_waiting_eta_divides_work_ahead_by_devices() -> None:
    waiting = job(JobStatus.PENDING, 30)
    assert eta_s(waiting, running_s=20.0, ahead_s=100.0, lanes=2) == pytest.approx(90.0)
    assert eta_s(waiting, running_s=0.0, ahead_s=0.0, lanes=0) == pytest.approx(30.0)


def test_short_clip_is_not_learned_from() -> None:
    """Check that a clip is ignored: one second costs as much as a whole segment."""
    assert not is_long_enough_to_learn(1.0)
    assert is_long_enough_to_learn(61.0)
