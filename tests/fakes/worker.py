"""A fake worker without torch: the real protocol over real pipes, with behaviour set by the job's title.

Titles: "fine", "slow <s>", "die", "die once", "hang", "deaf" (ignores cancel), "silent" (hangs without heartbeat),
"garbage", "fail <code>", "fail once <code>", "steps" (some progress, then done), "on cpu <s>" (its GPU is full),
"kill" and "kill once" (as the kernel does when memory runs out).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

LOCK = threading.Lock()
CANCELLED: set[tuple[str, int]] = set()
SILENT = threading.Event()
CONFIG = json.loads(sys.argv[1])
DATA = Path(CONFIG["data_dir"])
STORAGE: Any = None
if CONFIG["storage"] is not None:  # as in the real worker
    from engine.worker.process import open_worker_storage
    from engine.worker.protocol import WorkerConfig

    STORAGE = open_worker_storage(WorkerConfig.model_validate(CONFIG))


def send(**message: Any) -> None:
    with LOCK:
        print(json.dumps(message), flush=True)


def beat(interval_s: float) -> None:
    while not SILENT.is_set():
        send(type="heartbeat", rss_bytes=1000, device_bytes=None)
        time.sleep(interval_s)


def once(spec: dict[str, Any]) -> bool:
    """Return whether this is the first attempt."""
    return int(spec["attempt"]) == 1


def publish(spec: dict[str, Any]) -> dict[str, Any]:
    out = DATA / spec["scratch_key"] / "out"
    out.mkdir(parents=True, exist_ok=True)
    (out / "vocals.wav").write_bytes(b"stem of " + spec["job_id"].encode())
    if STORAGE is None:
        (DATA / spec["output_key"]).parent.mkdir(parents=True, exist_ok=True)
        out.rename(DATA / spec["output_key"])
    else:
        STORAGE.publish_folder(out, spec["output_key"])
    stem = {
        "filename": "vocals.wav", "path": f"{spec['output_key']}/vocals.wav", "size": 44, "duration": 1.0,
        "format": "wav", "sample_rate": 44100,
    }  # fmt: skip
    return {
        "job_id": spec["job_id"], "output_dir": spec["output_key"], "stems": {"vocals": stem}, "processing_time": 1,
        "model_used": spec["options"]["model"], "file_size": 44,
    }  # fmt: skip


def attempt(spec: dict[str, Any]) -> None:
    me: dict[str, Any] = {"job_id": spec["job_id"], "attempt": spec["attempt"]}
    (DATA / spec["scratch_key"]).mkdir(parents=True, exist_ok=True)
    (DATA / spec["scratch_key"] / "mix.f32").write_bytes(b"half")
    title = str(spec["title"])
    if STORAGE is not None:
        STORAGE.fetch(spec["input_key"], DATA / spec["scratch_key"])
    on_cpu = title.startswith("on cpu")
    send(type="progress", **me, stage="separating", fraction=0.1, on_cpu=on_cpu)
    if title == "die" or (title == "die once" and once(spec)):
        os._exit(9)
    if title == "kill" or (title == "kill once" and once(spec)):
        os.kill(os.getpid(), signal.SIGKILL)
    if title == "garbage":
        with LOCK:
            print("this is not JSON", flush=True)
    if title == "silent":
        SILENT.set()
    if title.startswith("fail") and (not title.startswith("fail once") or once(spec)):
        send(type="failed", **me, code=title.split()[-1], message="It failed, as asked.")
        return
    wait_s = float(title.split()[-1]) if title.startswith("slow") or on_cpu else 0.0
    ends = time.monotonic() + (1e9 if title in ("hang", "deaf", "silent", "garbage") else wait_s)
    while time.monotonic() < ends:
        if (spec["job_id"], spec["attempt"]) in CANCELLED and title != "deaf":
            send(type="failed", **me, code="cancelled", message="Cancelled.")
            return
        time.sleep(0.01)
    if title == "steps":
        for step in range(1, 6):
            send(type="progress", **me, stage="separating", fraction=step / 5)
            time.sleep(0.02)
    send(type="done", **me, result=publish(spec), separating_s=0.1, input_duration_s=60.0)


def run_attempt(spec: dict[str, Any]) -> None:
    try:
        attempt(spec)
    except Exception as error:
        code, message = getattr(error, "code", "internal"), getattr(error, "message", str(error))
        send(type="failed", job_id=spec["job_id"], attempt=spec["attempt"], code=code, message=message)


def main() -> None:
    models = [{"name": "mini", "state": "ready"}]
    has_failed = CONFIG["device"] == "cuda:9"  # a GPU that fails its test
    send(type="ready", device=CONFIG["device"], device_name="stand-in", models=models, stands_in=has_failed)
    threading.Thread(target=beat, args=(CONFIG["heartbeat_s"],), daemon=True).start()
    for line in sys.stdin:
        message = json.loads(line)
        if message["type"] == "start":
            CANCELLED.discard((message["spec"]["job_id"], message["spec"]["attempt"]))
            threading.Thread(target=run_attempt, args=(message["spec"],), daemon=True).start()
        elif message["type"] == "cancel":
            CANCELLED.add((message["job_id"], message["attempt"]))
        else:
            break
    os._exit(0)


if __name__ == "__main__":
    main()
