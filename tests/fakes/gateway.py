"""A fake gateway without Ray for two workers: the real protocol, with behaviour set by the job's title.

Titles: "fine", "hang" (until it is cancelled), "deaf" (ignores cancel), "drain" (its node is drained, then the
attempt ends), "machine dies", "actor dies", "gateway dies", "stands still" (the worker goes silent).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

LOCK = threading.Lock()
SILENT: set[str] = set()
ALIVE: set[str] = set()


def send(**message: Any) -> None:
    with LOCK:
        print(json.dumps(message), flush=True)


def send_from(worker: str, **message: Any) -> None:
    if worker not in SILENT and worker in ALIVE:
        send(type="output", worker=worker, content=json.dumps(message))


def join(worker: str, name: str) -> None:
    ALIVE.add(worker)
    send(type="worker_added", worker=worker, name=name)
    send_from(worker, type="ready", device="cpu", device_name="stand-in", models=[{"name": "mini", "state": "ready"}])


def leave(worker: str, reason: str, *, lost: bool) -> None:
    ALIVE.discard(worker)
    send(type="worker_removed", worker=worker, reason=reason, lost=lost)
    name, number = worker.split("#")
    threading.Timer(0.2, join, (f"{name}#{int(number) + 1}", name)).start()


def beat() -> None:
    while True:
        send(type="heartbeat", rss_bytes=1000)
        for worker in sorted(ALIVE):
            send_from(worker, type="heartbeat", rss_bytes=1000)
        time.sleep(0.1)


def done(worker: str, me: dict[str, Any], spec: dict[str, Any]) -> None:
    result = {
        "job_id": spec["job_id"], "output_dir": spec["output_key"], "stems": {}, "processing_time": 1,
        "model_used": "mini", "file_size": 0,
    }  # fmt: skip
    send_from(worker, type="done", **me, result=result, separating_s=0.1, input_duration_s=60.0)


def start(worker: str, spec: dict[str, Any]) -> None:
    me = {"job_id": spec["job_id"], "attempt": spec["attempt"]}
    send_from(worker, type="progress", **me, stage="separating", fraction=0.1)
    title = spec["title"]
    if title == "fine":
        done(worker, me, spec)
    elif title == "drain":
        send(type="worker_draining", worker=worker)
        threading.Timer(0.5, done, (worker, me, spec)).start()
    elif title == "machine dies":
        leave(worker, "its machine is gone", lost=True)
    elif title == "actor dies":
        leave(worker, "out of memory", lost=False)
    elif title == "gateway dies":
        os._exit(1)
    elif title == "stands still":
        SILENT.add(worker)


def main() -> None:
    json.loads(sys.argv[1])
    titles: dict[str, str] = {}
    send(type="status", subject="head", text=None)
    for name in ("one", "two"):
        join(f"{name}#1", name)
    threading.Thread(target=beat, daemon=True).start()
    for line in sys.stdin:
        message = json.loads(line)
        if message["type"] == "shutdown":
            break
        if message["type"] == "kill":
            leave(message["worker"], "it was killed", lost=False)
            continue
        request = json.loads(message["content"])
        if request["type"] == "start":
            titles[request["spec"]["job_id"]] = request["spec"]["title"]
            start(message["worker"], request["spec"])
        elif titles[request["job_id"]] != "deaf":
            send_from(
                message["worker"], type="failed", job_id=request["job_id"], attempt=request["attempt"],
                code="cancelled", message="Cancelled.",
            )  # fmt: skip
    os._exit(0)


if __name__ == "__main__":
    main()
