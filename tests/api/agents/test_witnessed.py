"""What agents are asked is told, with how it ended, also where nobody answered."""

from __future__ import annotations

from typing import Any

import pytest

from api.agents.witnessed import Witnessed
from drivers.agent.protocol import Code, Metrics, Result, Task
from drivers.errors import Unreachable
from reconciler.events import AgentAnswered, Event
from tests.api.signer import papers
from tests.reconciler.core.builders import NOW


class Carrier:
    """A link whose agent answers so, or is lost."""

    def __init__(self, answer: Result | Exception) -> None:
        self._answer = answer

    async def carry(self, *_: object) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer, None


async def told(task: Task, answer: Result | Exception) -> AgentAnswered:
    events: list[Event] = []
    witnessed = Witnessed(Carrier(answer), events.append, lambda: NOW)  # type: ignore[arg-type]
    if isinstance(answer, Exception):
        with pytest.raises(type(answer)):
            await witnessed.carry(task, None, lambda lines: None)  # type: ignore[arg-type]
    else:
        assert (await witnessed.carry(task, None, lambda lines: None))[0] is answer  # type: ignore[arg-type]
    [event] = events
    assert isinstance(event, AgentAnswered)
    assert (event.agent, event.target, event.verb, event.began_at) == (task.agent, task.target, task.verb.value, NOW)
    assert (event.task, event.key) == (task.id, task.key)
    return event


async def test_an_answer_is_told_with_how_long_its_parts_took() -> None:
    task, _ = papers.asked()
    result = Result(
        task=task.id,
        key=task.key,
        agent=task.agent,
        target=task.target,
        environment=task.environment,
        verb=task.verb,
        fence=task.fence,
        code=Code.FAILED,
        detail="no such image",
        content=task.content,
        sequence=1,
        metrics=Metrics(pull=12),
    )
    event = await told(task, result)
    assert (event.code, event.detail, event.milliseconds) == ("FAILED", "no such image", {"pull": 12})


async def test_it_is_told_that_nobody_answered() -> None:
    event = await told(papers.asked()[0], Unreachable("the channel of agent web-1 was lost"))
    assert (event.code, event.milliseconds) == (None, {})
