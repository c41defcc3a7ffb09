"""The bot's own process on a cluster: songs go in by HTTP, and one can look at everything that it does."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.cluster.ray_cluster import VARIABLES, RayCluster, end_session
from tests.songs import make_song
from tests.tiny_models import write_model

PATIENCE_S = 600.0


class Bot:
    """`python -m bot` without Discord."""

    def __init__(self, folder: Path, cluster: RayCluster, **variables: str) -> None:
        self.folder, self.cluster, self.data = folder, cluster, folder / "data"
        self._log = folder / "bot.log"
        settings = {
            "STEMIFY_DATA_DIR": str(self.data),
            "STEMIFY_MODELS_DIR": str(folder / "models"),
            "STEMIFY_WEB__PORT": "0",
            "STEMIFY_LIMITS__JOBS_PER_HOUR": "1000",
            "STEMIFY_LIMITS__QUEUED_PER_USER": "1000",
            "STEMIFY_WORKERS__SHUTDOWN_GRACE_S": "0",
            "STEMIFY_CLUSTER__ADDRESS": cluster.address,
            "STEMIFY_CLUSTER__NODE_IP": "127.0.0.6",
            "STEMIFY_CLUSTER__CPUS_PER_WORKER": "1",
            "STEMIFY_CLUSTER__NODE_DIR": str(folder / "nodes"),
            **variables,
        }
        with self._log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bot"],
                env={**os.environ, **VARIABLES, **cluster.variables, **settings},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.url = ""
        self.until(self._said_where, "the bot's web address", 240)

    def _said_where(self) -> bool:
        for line in self.log().splitlines():
            start = line.find("http://127.0.0.1:")
            if start >= 0:
                self.url = line[start:].split()[0].rstrip(".,)")
                return True
        return False

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def until(self, what: Callable[[], Any], name: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait, and see to it that the bot's process lives all the while."""
        deadline = time.monotonic() + timeout_s
        while not what():
            assert self.process.poll() is None, f"the bot has ended\n{self.log()[-4000:]}"
            assert time.monotonic() < deadline, f"no {name} in {timeout_s:.0f} s\n{self.log()[-4000:]}"
            time.sleep(0.3)

    def readiness(self) -> dict[str, Any]:
        answer: dict[str, Any] = requests.get(f"{self.url}/readyz", timeout=10).json()
        return answer

    def workers(self) -> list[str]:
        """Those that are ready."""
        worker = self.readiness()["checks"]["worker"]
        return sorted(worker["detail"].split(", ")) if worker["ok"] else []

    def submit(self, song: Path) -> str:
        with song.open("rb") as file:
            answer = requests.post(
                f"{self.url}/api/stemify",
                files={"file": (song.name, file)},
                data={"options": json.dumps({"model": "htdemucs", "quality": "fast", "outputFormat": "mp3"})},
                timeout=60,
            )
        assert answer.status_code == 202, answer.text
        return str(answer.json()["jobId"])

    def rows(self) -> list[dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(self.data / "stemify.sqlite3")) as database:
            database.row_factory = sqlite3.Row
            found = database.execute("SELECT id, status, attempt, error_code, progress FROM jobs").fetchall()
        return [dict(row) for row in found]

    def states(self) -> Counter[str]:
        return Counter(row["status"] for row in self.rows())

    def running(self) -> int:
        """Jobs that a worker has begun to separate."""
        return sum(row["status"] == "processing" for row in self.rows())

    def assert_all_published_once(self, job_ids: list[str]) -> None:
        """Every job is completed, and just the attempt that its row names has left files."""
        rows = {row["id"]: row for row in self.rows()}
        wrong = {each: rows[each] for each in job_ids if rows[each]["status"] != "completed"}
        assert not wrong, f"{wrong}\n{self.log()[-4000:]}"
        for job_id in job_ids:
            left = sorted(path.name for path in (self.data / "jobs" / job_id).iterdir())
            assert left == [f"a{rows[job_id]['attempt']}"], (job_id, left, rows[job_id])
            stems = sorted(path.suffix for path in (self.data / "jobs" / job_id / left[0]).iterdir())
            assert stems.count(".mp3") == 4, (job_id, stems)
        scratch = self.data / "scratch"
        assert not scratch.exists() or not list(scratch.iterdir())

    def stop(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        end_session(self.process)
        self.process.wait()


@contextmanager
def bot_on(folder: Path, cluster: RayCluster, **variables: str) -> Iterator[Bot]:
    write_model(folder / "models")
    make_song(folder / "song.mp3", seconds=8.0)  # longer to separate than to hand in, so that a queue builds up
    bot = Bot(folder, cluster, **variables)
    try:
        yield bot
    finally:
        bot.stop()
