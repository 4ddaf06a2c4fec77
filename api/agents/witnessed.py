"""What agents are asked to carry out, told as it ends: by whom, how long it took, and how it ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from datetime import datetime

from drivers.agent.link import Heard, Link, Serving
from drivers.agent.protocol import Answer, Assign, Result, Seen, Task
from reconciler.events import AgentAnswered, Sink
from stickers.names import Digest, TargetId


class Witnessed:
    """A `Link` that tells of every task."""

    def __init__(self, link: Link, sink: Sink, now: Callable[[], datetime]) -> None:
        self._link, self._sink, self._now = link, sink, now

    def serving(self, target: TargetId) -> Serving:
        return self._link.serving(target)

    async def look(self, target: TargetId, order: Digest, seen: Digest | None) -> Seen:
        return await self._link.look(target, order, seen)

    async def carry(self, task: Task, assign: Assign, heard: Heard) -> tuple[Result, Answer]:
        began = self._now()
        result: Result | None = None
        try:
            result, answer = await self._link.carry(task, assign, heard)
        finally:
            self._sink(self._told(task, began, result))
        return result, answer

    def changes(self, targets: Sequence[TargetId]) -> AsyncIterator[TargetId]:
        return self._link.changes(targets)

    def _told(self, task: Task, began: datetime, result: Result | None) -> AgentAnswered:
        parts = {} if result is None else asdict(result.metrics)
        return AgentAnswered(
            environment=task.environment,
            target=task.target,
            agent=task.agent,
            task=task.id,
            key=task.key,
            verb=task.verb.value,
            code=None if result is None else result.code.value,
            detail="no answer came" if result is None else result.detail,
            began_at=began,
            milliseconds={part: took for part, took in parts.items() if took is not None},
        )
