"""The handle of a worker on this machine: a child process, restarted when it dies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from engine.errors import WorkerDied, WorkerKilled
from engine.pool.handle import PoolLimits, WorkerHandle
from engine.pool.supervisor import Supervisor, SupervisorCallbacks
from engine.process.environment import computing_environment, network_environment, storage_environment
from engine.worker.protocol import SECRET_VARIABLE, Message, WorkerConfig


class WorkerProcess(WorkerHandle):
    """The worker of one device, across restarts of its process."""

    def __init__(
        self, config: WorkerConfig, limits: PoolLimits, command: Sequence[str], on_change: Callable[[], None]
    ) -> None:
        super().__init__(config.device, limits, on_change)
        callbacks = SupervisorCallbacks(
            line=self.handle_line, end=self._on_end, silence_timeout_s=lambda: self.silence_timeout_s
        )
        self._supervisor = Supervisor(
            f"worker {config.device}",
            [*command, config.model_dump_json()],
            worker_environment(config),
            callbacks,
        )

    @property
    def pid(self) -> int | None:
        return self._supervisor.pid

    @property
    def deaths(self) -> int:
        return self._supervisor.deaths

    def start(self) -> None:
        """Start the process."""
        self._supervisor.start()

    async def stop(self) -> None:
        """Shut the process down; kill it if it does not end."""
        self.draining = True
        await self._supervisor.stop()
        self.fail_all()

    def kill(self) -> None:
        self._supervisor.kill()

    def _send(self, message: Message) -> None:
        self._supervisor.send(message)

    def _on_end(self) -> None:
        self.fail_all(WorkerKilled if self._supervisor.was_oom_killed else WorkerDied)
        self._on_change()


def worker_environment(config: WorkerConfig) -> dict[str, str]:
    """Return the environment variables for a worker."""
    variables = computing_environment() | network_environment()
    if config.threads and config.device == "cpu":
        variables["OMP_NUM_THREADS"] = str(config.threads)
    if config.storage is not None:
        variables |= storage_environment(secrets=config.storage.access_key_id is None)
        if config.storage.secret_access_key is not None:
            variables[SECRET_VARIABLE] = config.storage.secret_access_key.get_secret_value()
    variables["TORCH_HOME"] = str(Path(config.cache_dir) / "torch")
    return variables
