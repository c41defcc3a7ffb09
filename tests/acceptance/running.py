"""A bot process under test: started, killed, restarted, and what it wrote."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.acceptance.fake_discord import FakeDiscord
from tests.acceptance.the_log import assert_gives_nothing_away

ROOT = Path(__file__).parents[2]


class RunningBot:
    """`async with RunningBot(fake, folder) as bot:`"""

    def __init__(
        self, fake: FakeDiscord, folder: Path, *, scripted: bool = False, variables: Mapping[str, str] | None = None
    ) -> None:
        self.fake = fake
        self.folder = folder
        self.scripted = scripted
        self.variables = dict(variables or {})
        self.process: asyncio.subprocess.Process | None = None
        self.log_path = folder.parent / f"{folder.name}.log"

    async def __aenter__(self) -> RunningBot:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def start(self, *, connects: bool = True) -> None:
        """Start the process and, with `connects`, wait until it is connected."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STEMIFY_")} | {
            "STEMIFY_DATA_DIR": str(self.folder),
            "STEMIFY_DISCORD__TOKEN": self.fake.bot_token,
            "STEMIFY_DISCORD__API_URL": self.fake.api_url,
            "STEMIFY_DISCORD__CDN_HOSTS": self.fake.host,
            "STEMIFY_DISCORD__EDIT_INTERVAL_S": "0.3",
            "STEMIFY_WEB__PORT": "0",
            "STEMIFY_WORKERS__DEVICES": "cpu",
            "STEMIFY_WORKERS__THREADS": "1",
            "STEMIFY_WORKERS__COMPILE": "false",
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "default",
        }
        arguments = ["-m", "tests.acceptance.launch_bot", *(["--scripted"] if self.scripted else [])]
        with self.log_path.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, cwd=ROOT, env=environment | self.variables, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        if not connects:
            return
        ready = asyncio.create_task(self.fake.gateway.ready.wait())
        gone = asyncio.create_task(self.process.wait())
        await asyncio.wait({ready, gone}, timeout=120, return_when=asyncio.FIRST_COMPLETED)
        connected = ready.done()
        ready.cancel()
        gone.cancel()
        assert connected, f"the bot did not connect:\n{self.log()}"

    async def logs(self, text: str, timeout_s: float = 60) -> None:
        """Wait until the log holds `text`."""
        async with asyncio.timeout(timeout_s):
            while text not in self.log_path.read_text():
                assert self.is_running, f"the bot ended:\n{self.log()}"
                await asyncio.sleep(0.05)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def kill(self) -> None:
        """SIGKILL to the main process alone, as the kernel would."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()
        await self.fake.until(lambda: not self.fake.gateway.ready.is_set(), "the gateway to notice")

    async def stop(self) -> int:
        """SIGTERM, and nothing of it may be left."""
        process, self.process = self.process, None
        if process is None:
            return 0
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.wait_for(process.wait(), 30)
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"did not stop within 30 s:\n{self.log()}") from None
        # Every log of every acceptance test is looked through.
        assert_gives_nothing_away(self.log_path.read_text(), self.fake.bot_token, "interaction-token-")
        return code

    def script(self, **script: Any) -> None:
        """What the scripted backend does from now on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "script.json"
        path.with_suffix(".part").write_text(json.dumps(script))
        path.with_suffix(".part").rename(path)

    def log(self) -> str:
        return self.log_path.read_text()[-6000:] if self.log_path.exists() else ""


def workers_of(bot: RunningBot) -> list[int]:
    """Process ids of the bot's workers."""
    assert bot.process is not None
    found = []
    for task in Path(f"/proc/{bot.process.pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"engine.worker.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found
