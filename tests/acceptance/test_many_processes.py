"""Two API pods and two workers on one Redis and Postgres: it makes no difference which of them a client meets."""

from __future__ import annotations

import asyncio

from tests.acceptance.pods import Deployment
from tests.acceptance.sessions import Session

SESSIONS = 200
CALLS = 4
AT_ONCE = 32


async def test_every_session_gets_its_own_answers_when_its_posts_go_to_another_pod(deployment: Deployment) -> None:
    """Every client counts its ids from 0, so that an answer delivered by its id alone would be somebody else's."""
    holder, other, *_ = await deployment.start(apis=2, workers=2)

    async def converse(name: int) -> None:
        async with Session(deployment.key, [holder.url], posts=other.url).opened() as session:
            await all_open.wait()
            for number in range(CALLS):
                text = f"session {name}, call {number}"
                assert await session.call("echo", text=text) == text
            if name % 100 == 0:
                texts = [f"session {name}, at once {number}" for number in range(AT_ONCE)]
                assert await asyncio.gather(*(session.call("echo", text=text) for text in texts)) == texts
            assert session.ends == []

    all_open = asyncio.Barrier(SESSIONS)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for name in range(SESSIONS):
            group.create_task(converse(name))
