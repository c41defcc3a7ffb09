"""Messages of a worker."""

from __future__ import annotations

from engine.worker.protocol import ModelState, Ready


def test_downloaded_model_becomes_ready_with_its_version() -> None:
    states = (ModelState(name="mini", state="ready", version="a"), ModelState(name="htdemucs", state="to_fetch"))
    ready = Ready(device="cpu", device_name="cpu", models=states)
    assert ready.with_version("htdemucs", None) == ready
    assert ready.with_version("mini", "a") == ready
    after = ready.with_version("htdemucs", "b")
    assert after.models == (states[0], ModelState(name="htdemucs", state="ready", version="b"))
