"""Where tasks are signed: what is asked is judged, written down, and only then signed."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from api.signer.declared import Documents
from api.signer.judge import Facts, Grant, Refusal, judged
from api.signer.ledger import Ledger
from api.signer.policy import Policy
from drivers.agent import protocol
from drivers.agent.protocol import READS, Malformed, Task
from stickers import digest
from stickers.signature import Signer

WINDOW: Final = 60.0  # seconds of `per_minute`
REFUSALS: Final = 600  # of them are written down in a window; whoever asks for more shall not fill the disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Whoever asks, as the kernel says."""

    pid: int
    uid: int
    gid: int


class Desk:
    def __init__(
        self,
        *,
        policy: Policy,
        documents: Documents | None,
        ledger: Ledger,
        signer: Signer,
        next_key: str | None,
        now: Callable[[], datetime],
    ) -> None:
        self._policy, self._documents, self._ledger, self._signer = policy, documents, ledger, signer
        self._next_key, self._now = next_key, now
        self._signed: dict[str, deque[float]] = {}
        self._refusals: deque[float] = deque()
        self._untold = 0

    async def answer(self, asked: str, peer: Peer) -> Mapping[str, str]:
        """The answer to one line: an `envelope`, or `refused` with a sentence and its `code`."""
        try:
            said = json.loads(asked)
            task, body = protocol.read_body(Task, said["task"]), said["body"]
            if not isinstance(body, str):
                raise TypeError("the body is no text")
        except (Malformed, ValueError, TypeError, KeyError, RecursionError) as error:
            return _refused(Refusal(code="MALFORMED", sentence=f"no task with its body: {error}"[:300]))
        verdict = judged(task, body, self._facts())
        if isinstance(verdict, Refusal) and verdict.missing and self._documents is not None:
            await self._documents.again()
            verdict = judged(task, body, self._facts())
        if isinstance(verdict, Refusal):
            self._note(task, peer, verdict)
            return _refused(verdict)
        return {"envelope": self._sign(task, peer, verdict)}

    def _facts(self) -> Facts:
        return Facts(
            policy=self._policy,
            declared=self._documents,
            fences=self._ledger.state.fences,
            recent=lambda rule: _recent(self._signed.setdefault(rule, deque())),
            next_key=self._next_key,
        )

    def _sign(self, task: Task, peer: Peer, grant: Grant) -> str:
        """Nothing awaits here: what was judged is what is signed."""
        fenced = task.verb not in READS
        said = {**self._said(task, peer), "rule": grant.rule, "fenced": fenced}
        sequence = self._ledger.signed((task.target, task.fence) if fenced else None, said)
        if fenced:
            self._signed[grant.rule].append(time.monotonic())
        return protocol.sealed(replace(task, sequence=sequence), self._signer.sign)

    def _note(self, task: Task, peer: Peer, refusal: Refusal) -> None:
        if _recent(self._refusals) >= REFUSALS:
            self._untold += 1
            return
        self._refusals.append(time.monotonic())
        untold = {"untold": self._untold} if self._untold else {}
        self._untold = 0
        said = {**self._said(task, peer), "code": refusal.code, "reason": refusal.sentence[:1000], **untold}
        self._ledger.refused(said)

    def _said(self, task: Task, peer: Peer) -> dict[str, Any]:
        return {
            "at": digest.instant(self._now()),
            "asked_by": peer.uid,
            "task": task.id,
            "key": task.key,
            "agent": task.agent,
            "target": task.target,
            "environment": task.environment,
            "verb": task.verb,
            "fence": task.fence,
            "content": task.content,
        }


def _recent(times: deque[float]) -> int:
    """How many of them are of the last minute; older ones are dropped."""
    horizon = time.monotonic() - WINDOW
    while times and times[0] < horizon:
        times.popleft()
    return len(times)


def _refused(refusal: Refusal) -> Mapping[str, str]:
    return {"refused": refusal.sentence, "code": refusal.code}
