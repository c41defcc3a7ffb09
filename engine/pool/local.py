"""The parent's side of one device's worker on this machine: a child process, restarted when it dies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from engine.errors import WorkerDied, WorkerKilled
from engine.pool.handle import PoolLimits, WorkerHandle
from engine.pool.supervisor import Supervisor, SupervisorCallbacks
from engine.process.environment import computing_environment, network_environment, storage_environment
from engine.worker.protocol import SECRET_VARIABLE, Message, WorkerConfig


class WorkerProcess(WorkerHandle):
    """One device's worker, through all the processes that it lives in."""

    def __init__(
        self, config: WorkerConfig, limits: PoolLimits, command: Sequence[str], on_change: Callable[[], None]
    ) -> None:
        super().__init__(config.device, limits, on_change)
        events = SupervisorCallbacks(
            line=self.handle_line, end=self._ended, silence_timeout_s=lambda: self.silence_timeout_s
        )
        self._child = Supervisor(
            f"worker {config.device}",
            [*command, config.model_dump_json()],
            worker_environment(config),
            events,
        )

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @property
    def deaths(self) -> int:
        return self._child.deaths

    def start(self) -> None:
        self._child.start()

    async def stop(self) -> None:
        """Ask it to end, then make it."""
        self.leaving = True
        await self._child.stop()
        self.fail_all()

    def kill(self) -> None:
        self._child.kill()

    def _send(self, message: Message) -> None:
        self._child.send(message)

    def _ended(self) -> None:
        self.fail_all(WorkerKilled if self._child.was_oom_killed else WorkerDied)
        self._on_change()


def worker_environment(config: WorkerConfig) -> dict[str, str]:
    """What a worker needs, with the caches inside the data folder."""
    kept = computing_environment() | network_environment()
    if config.threads and config.device == "cpu":
        kept["OMP_NUM_THREADS"] = str(config.threads)
    if config.storage is not None:
        kept |= storage_environment(secrets=config.storage.access_key_id is None)
        if config.storage.secret_access_key is not None:
            kept[SECRET_VARIABLE] = config.storage.secret_access_key.get_secret_value()
    kept["TORCH_HOME"] = str(Path(config.cache_dir) / "torch")
    return kept
