"""Messages between the main process and the gateway: one JSON object per line, as in `engine.worker.protocol`.

In: `forward`, `kill`, `shutdown`. Out: `worker_added`, `output`, `worker_draining`, `worker_removed`, `status`,
`heartbeat`. Each message names its worker; `forward` and `output` contain a line of the worker protocol, unchanged.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from engine.worker.protocol import Heartbeat, Message, Shutdown, WorkerConfig


class GatewayConfig(BaseModel):
    """Configuration of the gateway, passed as one JSON argument."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str  # of the Ray head, "host:port"
    node_ip: str | None  # this machine's address as seen by the other nodes; None: detected by Ray
    own_node: bool  # start a Ray node without devices on this machine, while the gateway runs
    cpus_per_worker: int  # 0: use GPUs only
    heartbeat_s: float
    worker: WorkerConfig  # of every worker, except device and threads
    lease_s: float  # a worker that is not polled for this long exits


class Forward(Message):
    """A line for a worker."""

    type: Literal["forward"] = "forward"
    worker: str
    content: str  # a line of `engine.worker.protocol`


class Kill(Message):
    """Kill a worker at once."""

    type: Literal["kill"] = "kill"
    worker: str


class WorkerAdded(Message):
    """A worker is starting; it is usable once it sends `ready`."""

    type: Literal["worker_added"] = "worker_added"
    worker: str
    name: str  # of the slot, for display; its next worker has the same


class Output(Message):
    """A line from a worker."""

    type: Literal["output"] = "output"
    worker: str
    content: str  # a line of `engine.worker.protocol`


class WorkerDraining(Message):
    """The worker's node is being drained: start no attempts on it, and `kill` it after the last one."""

    type: Literal["worker_draining"] = "worker_draining"
    worker: str


class WorkerRemoved(Message):
    """The worker is gone. `lost`: with its machine or connection, so no attempt caused it."""

    type: Literal["worker_removed"] = "worker_removed"
    worker: str
    reason: str
    lost: bool


class Status(Message):
    """A problem with the head or a node; `text` is None when it is resolved."""

    type: Literal["status"] = "status"
    subject: str  # "head" or the name of a worker slot
    text: str | None


ToGateway = Annotated[Forward | Kill | Shutdown, Field(discriminator="type")]
FromGateway = Annotated[
    WorkerAdded | Output | WorkerDraining | WorkerRemoved | Status | Heartbeat, Field(discriminator="type")
]
to_gateway: TypeAdapter[Forward | Kill | Shutdown] = TypeAdapter(ToGateway)
from_gateway: TypeAdapter[WorkerAdded | Output | WorkerDraining | WorkerRemoved | Status | Heartbeat] = TypeAdapter(
    FromGateway
)
