"""What the main process and the gateway say to each other, one JSON object a line, as in `engine.worker.protocol`.

The gateway carries the talk with many workers, so each word names its worker, and a worker's own line travels inside
as it is. In: `tell`, `drop`, `shutdown`. Out: `joined`, `said`, `leaving`, `left`, `trouble`, `heartbeat`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from engine.worker.protocol import Heartbeat, Message, Shutdown, WorkerConfig


class GatewayConfig(BaseModel):
    """What the gateway is started with, as one JSON argument."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str  # of the Ray head, "host:port"
    node_ip: str | None  # this machine's address as the other nodes see it; None: Ray finds out
    own_node: bool  # start a Ray node without devices here, for the time being
    cpus_per_worker: int  # 0: only GPUs work
    heartbeat_s: float
    worker: WorkerConfig  # of every worker, but for its device and threads
    lease_s: float  # a worker that nobody has listened to for so long ends itself


class Forward(Message):
    type: Literal["tell"] = "tell"
    worker: str
    words: str  # a line of `engine.worker.protocol`


class Kill(Message):
    """End a worker at once, whatever it does."""

    type: Literal["drop"] = "drop"
    worker: str


class WorkerAdded(Message):
    """A worker is being started. It can be used when it says `ready` itself."""

    type: Literal["joined"] = "joined"
    worker: str
    name: str  # for people, and the same for the next worker in this place


class Output(Message):
    type: Literal["said"] = "said"
    worker: str
    words: str  # a line of `engine.worker.protocol`


class WorkerDraining(Message):
    """The worker's node is being drained: no more attempts, please, and `drop` it after the last one."""

    type: Literal["leaving"] = "leaving"
    worker: str


class WorkerRemoved(Message):
    """The worker is gone. `lost`: with its machine or the connection, so no attempt is to blame for it."""

    type: Literal["left"] = "left"
    worker: str
    reason: str
    lost: bool


class Status(Message):
    """What is wrong about something ("head", or a node); None: nothing any more."""

    type: Literal["trouble"] = "trouble"
    about: str
    text: str | None


ToGateway = Annotated[Forward | Kill | Shutdown, Field(discriminator="type")]
FromGateway = Annotated[
    WorkerAdded | Output | WorkerDraining | WorkerRemoved | Status | Heartbeat, Field(discriminator="type")
]
to_gateway: TypeAdapter[Forward | Kill | Shutdown] = TypeAdapter(ToGateway)
from_gateway: TypeAdapter[WorkerAdded | Output | WorkerDraining | WorkerRemoved | Status | Heartbeat] = TypeAdapter(
    FromGateway
)
