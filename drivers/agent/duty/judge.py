"""Whether a task is carried out: one table, read from the top, of which the first line that applies is the answer.

Pure: what is known of the agent, its host and its journal goes in as `Facts`. A line is as good as its place: nothing a
task says is looked at before its signature has been, and what has been answered before is answered so again, although
its fence has been passed and its time is over by now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from drivers.agent import protocol
from drivers.agent.duty.journal import Known
from drivers.agent.duty.settings import Settings
from drivers.agent.protocol import (
    READS,
    Code,
    Errand,
    Excerpt,
    Hold,
    Malformed,
    Task,
    Trust,
    Upgrade,
    Upload,
    Verb,
)
from drivers.contract import Action, Look
from stickers.names import ActionKey, AgentName, TargetId
from stickers.signature import Envelope, Keyring, SignatureError

Work = Action | Look | Excerpt | Errand | Upload | Hold | Upgrade | Trust

BODIES: Final[Mapping[Verb, type[Work]]] = {
    Verb.DEPLOY: Action,
    Verb.ROLLBACK: Action,
    Verb.WRITE_STICKER: Action,
    Verb.INSPECT: Look,
    Verb.HEALTH_CHECK: Look,
    Verb.READ_STICKER: Look,
    Verb.EXAMINE: Look,
    Verb.READ_LOG: Excerpt,
    Verb.EXECUTE_COMMAND: Errand,
    Verb.UPLOAD_FILES: Upload,
    Verb.HOLD: Hold,
    Verb.UPGRADE: Upgrade,
    Verb.TRUST: Trust,
}
ONCE: Final = frozenset({Verb.EXECUTE_COMMAND, Verb.UPLOAD_FILES, Verb.UPGRADE, Verb.TRUST, Verb.HOLD})
"""Verbs whose doing cannot be told from the target, so that a key is the only thing that keeps them from being done
twice. Drivers find out by themselves that an action of this key was carried out."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a task is judged by. `at` reads the clock of the run `epoch`. `targets` and `kinds` are what the operator
    has granted, `settings` what the host lets. `fence` answers the highest that was ever acted under. `known` are
    answers by the id of their task, `under_way` the ids of the tasks that are not answered yet, each with the id of the
    one that came first; `keys` are the keys of those."""

    agent: AgentName
    generation: int
    epoch: str
    at: int
    keyring: Keyring
    targets: Set[TargetId]
    kinds: Set[str]
    settings: Settings
    fence: Callable[[TargetId], int]
    known: Mapping[str, Known]
    under_way: Mapping[str, tuple[str, Task]]
    keys: Mapping[ActionKey, tuple[str, Task]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Nothing is done. `task` is what the envelope speaks of, None where it speaks of nothing."""

    code: Code
    detail: str
    task: Task | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Go:
    task: Task
    work: Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """It has been answered: that answer is its answer. `id` is the task it was given to."""

    task: Task
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attach:
    """It is under way, as the task `id`, and will be answered with it."""

    task: Task
    id: str


Verdict = Refusal | Go | Again | Attach


def judged(envelope: Envelope, body: str, facts: Facts) -> Verdict:
    try:
        task = protocol.task(envelope, facts.keyring)
    except Malformed as error:
        return Refusal(code=Code.MALFORMED, detail=str(error), task=None)
    except SignatureError as error:
        return Refusal(code=Code.FORGED, detail=str(error), task=_spoken_of(envelope))
    asked = _Asked(task, body)
    for line in TABLE:
        found = line(asked, facts)
        if found is not None:
            return found
    assert asked.work is not None
    return Go(task=task, work=asked.work)


class _Asked:
    """A task that was signed, with the body that came with it."""

    def __init__(self, task: Task, body: str) -> None:
        self.task, self.body = task, body
        self.id, self.key, self.target = task.id, task.key, task.target

    @cached_property
    def work(self) -> Work | None:
        """None for a body of another type than the verb's."""
        try:
            return protocol.read_body(BODIES[self.task.verb], self.body)
        except Malformed:
            return None

    def refused(self, code: Code, detail: str) -> Refusal:
        return Refusal(code=code, detail=detail, task=self.task)


Line = Callable[[_Asked, Facts], Verdict | None]


def _is_for_us(asked: _Asked, facts: Facts) -> Verdict | None:
    if asked.task.agent != facts.agent:
        return asked.refused(Code.AUDIENCE, f"the task is for agent {asked.task.agent[:80]}, this is {facts.agent}")
    if asked.target not in facts.targets:
        return asked.refused(Code.AUDIENCE, f"target {asked.target[:80]} is not served by this agent")
    return None


def _was_answered(asked: _Asked, facts: Facts) -> Verdict | None:
    """The same authorisation again, however late: its answer stands."""
    known = facts.known.get(asked.id)
    if known is None:
        return None
    if (known.key, known.content) != (asked.key, asked.task.content):
        return asked.refused(Code.USED, "this authorisation was used, for another key or another body")
    return Again(task=asked.task, id=known.id)


def _is_under_way(asked: _Asked, facts: Facts) -> Verdict | None:
    first, task = facts.under_way.get(asked.id, (None, None))
    if first is None or task is None:
        return None
    if task != asked.task:
        return asked.refused(Code.USED, "this authorisation is being used, for another task")
    return Attach(task=asked.task, id=first)


def _is_of_this_generation(asked: _Asked, facts: Facts) -> Verdict | None:
    """What was authorised just before a renewal is not lost with it."""
    if asked.task.generation in (facts.generation, facts.generation - 1):
        return None
    return asked.refused(
        Code.GENERATION, f"authorised for generation {asked.task.generation}, this is {facts.generation}"
    )


def _is_of_this_run(asked: _Asked, facts: Facts) -> Verdict | None:
    if asked.task.epoch == facts.epoch:
        return None
    return asked.refused(Code.EPOCH, "authorised for another run of this agent")


def _is_in_time(asked: _Asked, facts: Facts) -> Verdict | None:
    if facts.at <= asked.task.not_after:
        return None
    return asked.refused(Code.EXPIRED, f"came {facts.at - asked.task.not_after} ms too late")


def _is_what_was_authorised(asked: _Asked, facts: Facts) -> Verdict | None:
    if protocol.content(asked.body) != asked.task.content:
        return asked.refused(Code.CONTENT, "the body is not the one that was authorised")
    return None


def _says_the_same(asked: _Asked, facts: Facts) -> Verdict | None:
    """An action names its target, key and fence itself; they are those of its authorisation."""
    work, task = asked.work, asked.task
    if work is None:
        return asked.refused(Code.MALFORMED, f"the body is no {BODIES[task.verb].__name__}, as {task.verb} needs")
    if isinstance(work, Action):
        said = (work.key, work.fence, work.environment, work.target.id)
        if said != (task.key, task.fence, task.environment, task.target):
            return asked.refused(Code.MALFORMED, "the action has another key, fence, environment or target")
        if any(change.id.target != task.target for change in work.changes):
            return asked.refused(Code.MALFORMED, "a change is for another target")
    if isinstance(work, Look | Excerpt) and (work.target.id, work.target.environment) != (
        task.target,
        task.environment,
    ):
        return asked.refused(Code.MALFORMED, "the look is at another target")
    if isinstance(work, Look) and any(one.id.target != task.target for one in work.placements):
        return asked.refused(Code.MALFORMED, "a placement is of another target")
    if isinstance(work, Excerpt) and work.id.target != task.target:
        return asked.refused(Code.MALFORMED, "the log is of another target")
    return None


def _has_the_fence(asked: _Asked, facts: Facts) -> Verdict | None:
    highest = facts.fence(asked.target)
    if asked.task.verb in READS or asked.task.fence >= highest:
        return None
    return asked.refused(Code.STALE_FENCE, f"fence {asked.task.fence}, and {highest} has been seen on {asked.target}")


def _is_new(asked: _Asked, facts: Facts) -> Verdict | None:
    """Another authorisation of a key. While that is under way, they are one. When it is done, the answer is given that
    nobody has heard; where somebody has, drivers look again and find it done, and what is done once is not repeated."""
    if asked.task.verb in READS:
        return None
    if asked.key in facts.keys:
        first, task = facts.keys[asked.key]
        same = _same(asked, task.verb, task.target == asked.target and _repeats(task, asked.task))
        return same or Attach(task=asked.task, id=first)
    done = next((one for one in facts.known.values() if one.key == asked.key and one.code is Code.DONE), None)
    if done is None:
        return None
    if asked.task.verb in ONCE or done.verb in ONCE:
        same = _same(asked, done.verb, done.content == asked.task.content)
        return same or Again(task=asked.task, id=done.id)
    if done.content == asked.task.content and done.verb is asked.task.verb and not done.acknowledged:
        return Again(task=asked.task, id=done.id)
    return None


def _repeats(task: Task, again: Task) -> bool:
    """An action that was authorised again under another fence has another body, and is the same by its key; of what is
    done once, only the very same body is."""
    return task.verb not in ONCE or task.content == again.content


def _same(asked: _Asked, verb: Verb, repeats: bool) -> Verdict | None:
    if verb is asked.task.verb and repeats:
        return None
    return asked.refused(Code.USED, "this key was used for something else")


def _is_granted(asked: _Asked, facts: Facts) -> Verdict | None:
    kind = _kind(asked.work)
    if kind is None or kind in facts.kinds:
        return None
    return asked.refused(Code.NOT_GRANTED, f"the operator has not granted this agent {kind[:80]}")


def _is_let(asked: _Asked, facts: Facts) -> Verdict | None:
    why = _not_let(asked.work, facts.settings)
    return None if why is None else asked.refused(Code.NOT_ALLOWED, why)


TABLE: Final[tuple[Line, ...]] = (
    _is_for_us,
    _was_answered,
    _is_under_way,
    _is_of_this_generation,
    _is_of_this_run,
    _is_in_time,
    _is_what_was_authorised,
    _says_the_same,
    _has_the_fence,
    _is_new,
    _is_granted,
    _is_let,
)


def _kind(work: Work | None) -> str | None:
    """The runtime it is work for."""
    return work.target.driver if isinstance(work, Action | Look | Excerpt) else None


def _not_let(work: Work | None, settings: Settings) -> str | None:
    match work:
        case Action() | Look() | Excerpt():
            kind = work.target.driver
            return None if kind in settings.kinds else f"kinds: this host lets no {kind[:80]} be worked with"
        case Errand():
            command = settings.commands.get(work.name)
            if command is None:
                return f"commands: this host lets no command {work.name[:80]!r} be run"
            why = command.refused(work.arguments)
            return None if why is None else f"commands.{work.name}: {why}"
        case Upload():
            return _upload_not_let(work, settings)
        case Upgrade():
            return _upgrade_not_let(work, settings)
    return None


def _upload_not_let(upload: Upload, settings: Settings) -> str | None:
    place = settings.uploads.get(upload.name)
    if place is None:
        return f"uploads: this host lets no files be put to {upload.name[:80]!r}"
    for file in upload.files:
        if file.mode & ~place.bits:
            return f"uploads.{upload.name}.mode: {file.path[:80]!r} has mode {file.mode:04o}, at most {place.mode}"
        if len(file.content) * 3 // 4 - 2 > place.largest:
            return f"uploads.{upload.name}.largest: {file.path[:80]!r} is larger than {place.largest} bytes"
    return None


def _upgrade_not_let(upgrade: Upgrade, settings: Settings) -> str | None:
    if settings.upgrade is None:
        return "upgrade: this host does not let its agent be replaced"
    if upgrade.artifact.partition("@")[0] != settings.upgrade.repository:
        return f"upgrade.repository: versions come from {settings.upgrade.repository} alone"
    return None


def _spoken_of(envelope: Envelope) -> Task | None:
    try:
        return protocol.unverified_task(envelope)
    except (SignatureError, Malformed):
        return None
