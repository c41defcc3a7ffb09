"""Slots that owners take in turn."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from engine.service.turns import Turns


class Crowd:
    """Requests for slots, in the order in which they get them."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.served: list[str] = []
        self.may_finish = asyncio.Semaphore(0)

    async def request(self, owner: str, name: str | None = None) -> None:
        async with self.turns.turn(owner):
            self.served.append(name or owner)
            await self.may_finish.acquire()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_slots_go_round_robin_by_owner() -> None:
    crowd = Crowd(Turns(total=1, per_owner=1))
    async with asyncio.TaskGroup() as tasks:
        for owner in ("a", "a", "a", "a", "b", "b", "c"):
            tasks.create_task(crowd.request(owner))
            await settled()
        for _ in range(7):
            crowd.may_finish.release()
            await settled()
    assert crowd.served == ["a", "a", "b", "c", "a", "b", "a"]


async def test_owner_at_its_limit_leaves_slots_to_others() -> None:
    crowd = Crowd(Turns(total=3, per_owner=2))
    async with asyncio.TaskGroup() as tasks:
        for owner in ("a", "a", "a", "a", "b"):
            tasks.create_task(crowd.request(owner))
            await settled()
        assert crowd.served == ["a", "a", "b"]
        for _ in range(5):
            crowd.may_finish.release()
    assert crowd.served == ["a", "a", "b", "a", "a"]


async def test_cancelled_request_gives_up_its_place() -> None:
    crowd = Crowd(Turns(total=1, per_owner=1))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(crowd.request("a"))
        await settled()
        waiting = tasks.create_task(crowd.request("b"))
        tasks.create_task(crowd.request("b", "b again"))
        await settled()
        assert crowd.turns.waiting("b") == 2
        waiting.cancel()
        crowd.may_finish.release()  # in the same turn of the loop: the slot is offered to a cancelled request
        await settled()
        assert crowd.served == ["a", "b again"]
        crowd.may_finish.release()
    assert crowd.turns.waiting("b") == 0


async def test_request_cancelled_with_its_grant_frees_the_slot() -> None:
    crowd = Crowd(Turns(total=1, per_owner=1))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(crowd.request("a"))
        await settled()
        waiting = tasks.create_task(crowd.request("b"))
        await settled()
        crowd.may_finish.release()
        while crowd.turns.waiting("b"):
            await asyncio.sleep(0)
        waiting.cancel()
        await settled()
        tasks.create_task(crowd.request("c"))
        crowd.may_finish.release()
    assert crowd.served == ["a", "c"]


async def test_wait_for_a_slot_ends_at_the_timeout() -> None:
    turns = Turns(total=1, per_owner=1)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(turns.turn("a"))
        with pytest.raises(TimeoutError):
            await stack.enter_async_context(turns.turn("b", timeout_s=0.01))
        assert turns.waiting("b") == 0
    async with turns.turn("b", timeout_s=0.01):
        pass
