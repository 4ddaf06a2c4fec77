"""The door for agents lets in who may speak, says why not to everybody else, and gives none more than its share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drivers.agent.protocol import Beat, Welcome
from stickers.names import TargetId
from tests.api.agents.houses import T1, House, house


@pytest.fixture
async def open_house(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as found:
        yield found


async def test_an_agent_is_welcomed_and_its_beats_are_answered(open_house: House) -> None:
    papers = open_house.invited("web-1", "default/t1", "default/t2")
    async with open_house.agent(papers) as agent:
        assert agent.welcome == Welcome(protocol=1, targets=(T1, TargetId("default/t2")), kinds=("docker",))
        await agent.say(Beat(at=31_000, queue=2))
        assert await agent.hear(Beat) == Beat(at=31_000, queue=2)
