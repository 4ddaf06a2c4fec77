"""Whether a task is signed: one table, read from the top, of which the first line that speaks refuses.

Pure: what is declared, the highest fences and the counts of the last minute go in as `Facts`. The server is believed in
nothing: what it says in the task is held against what the body says, and both against policy and documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from api.signer.policy import DEPLOYING, Policy, Rule, fits
from desired_state.model import Placement, Target
from drivers.agent import protocol
from drivers.agent.duty.judge import BODIES, Work
from drivers.agent.protocol import READS, Errand, Excerpt, Hold, Malformed, Task, Trust, Upgrade, Upload, Verb
from drivers.contract import Action, Change, Deploy, Look, Remove
from stickers import digest
from stickers.names import Digest, PlacementId, TargetId, split_id

LONGEST: Final = timedelta(hours=24)  # that one task may take


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """`code` is stable, `sentence` for people. `missing`: it may be declared by documents that were not read yet."""

    code: str
    sentence: str
    missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    rule: str


class Declared(Protocol):
    """What is and what was declared."""

    def target(self, name: Digest, /) -> bool: ...

    def placement(self, name: Digest, /) -> bool: ...

    def is_gone(self, id: PlacementId, environment: str, /) -> bool | None:
        """Whether nobody declares it any more; None where that cannot be told now."""
        ...


@dataclass(frozen=True, kw_only=True)
class Facts:
    """`declared` None: the policy names no documents. `recent` counts what was signed in the last minute by a rule and
    changes something; `next_key` is the public key, in hex, that is to follow the one that signs."""

    policy: Policy
    declared: Declared | None
    fences: Mapping[TargetId, int]
    recent: Callable[[str], int]
    next_key: str | None


def target_name(target: Target) -> Digest:
    """What a target is remembered by: all that decides what an agent does there."""
    said = {"id": target.id, "environment": target.environment, "driver": target.driver}
    return digest.of({**said, "connection": digest.plain(target.connection)})


def placement_name(placement: Placement) -> Digest:
    """What a placement is remembered by: all that decides what runs, what runs beside it, and what its sticker says."""
    said = {
        "id": digest.plain(placement.id),
        "environment": placement.environment,
        "release": placement.release,
        "artifact": str(placement.artifact),
        "configuration": placement.configuration_digest,
        "credentials": digest.plain(placement.configuration.registry_credentials),
        "health": digest.plain(placement.health),
        "hooks": digest.plain(placement.hooks),
        "proxy": digest.plain(placement.proxy),
        "running": placement.running,
    }
    return digest.of({name: value for name, value in said.items() if value is not None})


class _Asked:
    """A task with its body, read."""

    def __init__(self, task: Task, work: Work) -> None:
        self.task, self.work = task, work

    @property
    def targets(self) -> tuple[Target, ...]:
        return (self.work.target,) if isinstance(self.work, Action | Look | Excerpt) else ()

    @property
    def changes(self) -> tuple[Change, ...]:
        return self.work.changes if isinstance(self.work, Action) else ()

    @property
    def brought(self) -> tuple[Placement, ...]:
        """Placements that will stand, or may."""
        return tuple(one.placement for one in self.changes if not isinstance(one, Remove))

    @property
    def placements(self) -> Iterator[Placement]:
        """Every placement the body speaks of."""
        yield from self.brought
        yield from (one.predecessor for one in self.changes if isinstance(one, Deploy) and one.predecessor)
        if isinstance(self.work, Look):
            yield from self.work.placements

    @property
    def ids(self) -> Iterator[PlacementId]:
        yield from (change.id for change in self.changes)
        yield from (placement.id for placement in self.placements)
        if isinstance(self.work, Excerpt):
            yield self.work.id


Verdict = Grant | Refusal


def judged(task: Task, body: str, facts: Facts) -> Verdict:
    if protocol.content(body) != task.content:
        return Refusal(code="CONTENT", sentence="the body is not the one that the task names")
    try:
        work = protocol.read_body(BODIES[task.verb], body)
    except Malformed as error:
        return Refusal(code="MALFORMED", sentence=f"the body is no {task.verb}: {error}")
    asked = _Asked(task, work)
    for line in TABLE:
        if (refusal := line(asked, facts)) is not None:
            return refusal
    return _by_rules(asked, facts)


# -- whatever the rules say --------------------------------------------------------------------------------------------


def _is_one_thing(asked: _Asked, facts: Facts) -> Refusal | None:
    """Task and body speak of the same target and environment, and of nothing else."""
    task = asked.task
    for target in asked.targets:
        if (target.id, target.environment) != (task.target, task.environment):
            return _mixed(f"the body is about {target.id} in {target.environment}")
        if target.hands != f"{target.driver}@agent":
            return _mixed(f"{target.id} is not reached through an agent")
    for id in asked.ids:
        if id.target != task.target:
            return _mixed(f"the body speaks of {id}")
    for placement in asked.placements:
        if placement.environment != task.environment:
            return _mixed(f"{placement.id} is of {placement.environment}")
    if split_id(task.environment)[0] != split_id(task.target)[0]:
        return _mixed(f"{task.target} is not of the project of {task.environment}")
    return None


def _action_fits(asked: _Asked, facts: Facts) -> Refusal | None:
    if not isinstance(asked.work, Action):
        return None
    task, action = asked.task, asked.work
    if (action.key, action.fence, action.environment) != (task.key, task.fence, task.environment):
        return _mixed("key, fence or environment of the action are others")
    if action.deadline > task.within or task.within > LONGEST:
        return Refusal(code="TOO_LONG", sentence=f"an action may take {LONGEST}, and no longer than its task")
    if action.rendered:
        return Refusal(code="RENDERED", sentence="files are rendered on the host, none are signed")
    if task.verb is Verb.WRITE_STICKER and not action.only_labels:
        return Refusal(code="VERB", sentence="write-sticker changes nothing but the sticker, and this would")
    return None


def _fence_holds(asked: _Asked, facts: Facts) -> Refusal | None:
    """What changes nothing has no fence."""
    task = asked.task
    if task.verb in READS:
        return (
            None if task.fence == 0 else Refusal(code="FENCE", sentence=f"{task.verb} changes nothing: its fence is 0")
        )
    highest = facts.fences.get(task.target, 0)
    if task.fence >= highest:
        return None
    return Refusal(code="STALE_FENCE", sentence=f"fence {task.fence} for {task.target}, {highest} was signed already")


def _is_declared(asked: _Asked, facts: Facts) -> Refusal | None:
    if facts.declared is None:
        return None
    for target in asked.targets:
        if not facts.declared.target(target_name(target)):
            return _undeclared(f"{target.id} is not, and was not, declared with this connection")
    for placement in asked.placements:
        if not facts.declared.placement(placement_name(placement)):
            what = f"{placement.artifact} as {placement.release}"
            return _undeclared(
                f"{placement.id} is not, and was not, declared with {what}, its configuration and checks"
            )
    return None


def _is_tame(asked: _Asked, facts: Facts) -> Refusal | None:
    """Where nobody declares anything to the signer, no program of the server's choice runs on a host."""
    if facts.declared is not None:
        return None
    for target in asked.targets:
        if target.driver == "script":
            return _wild(f"{target.id} names programs of its host")
    for placement in asked.placements:
        if placement.hooks is not None:
            return _wild(f"{placement.id} has hooks")
        if any(volume.source.startswith("/") for volume in placement.configuration.volumes):
            return _wild(f"{placement.id} mounts directories of its host")
    return None


def _removes_only_what_is_gone(asked: _Asked, facts: Facts) -> Refusal | None:
    for change in asked.changes:
        if not isinstance(change, Remove) or facts.declared is None:
            continue
        gone = facts.declared.is_gone(change.id, asked.task.environment)
        if gone is None:
            return _undeclared(f"whether {change.id} is declared cannot be told: the documents cannot be read, or err")
        if not gone:
            return _undeclared(f"{change.id} is declared, so it is not removed")
    return None


def _trusts_only_our_own(asked: _Asked, facts: Facts) -> Refusal | None:
    if not isinstance(asked.work, Trust) or asked.work.public == facts.next_key:
        return None
    return Refusal(code="NOT_OURS", sentence="the key is not the one that `holdfast signer rotate` has made")


Line = Callable[[_Asked, Facts], Refusal | None]
TABLE: Final[tuple[Line, ...]] = (
    _is_one_thing,
    _action_fits,
    _fence_holds,
    _trusts_only_our_own,
    _removes_only_what_is_gone,
    _is_declared,
    _is_tame,
)


def _mixed(sentence: str) -> Refusal:
    return Refusal(code="MIXED", sentence=f"task and body do not fit: {sentence}")


def _undeclared(sentence: str) -> Refusal:
    return Refusal(code="UNDECLARED", sentence=sentence, missing=True)


def _wild(sentence: str) -> Refusal:
    return Refusal(code="UNDECLARED", sentence=f"{sentence}: that is signed only where the policy names documents")


# -- the rules ---------------------------------------------------------------------------------------------------------


def _by_rules(asked: _Asked, facts: Facts) -> Verdict:
    """The first rule that lets it, and has not let too much; else what the one that came nearest says."""
    repositories = [placement.artifact.repository for placement in asked.placements]
    found: Verdict = Refusal(code="NO_RULE", sentence="")
    for rule in _about(facts.policy, asked.task):
        if isinstance(rule, Refusal):
            return rule
        found = _by_rule(rule, asked.task.verb, asked.work, repositories)
        if isinstance(found, Grant) and asked.task.verb not in READS and facts.recent(rule.name) >= rule.per_minute:
            sentence = f"rule {rule.name}: {rule.per_minute} were signed in the last minute"
            found = Refusal(code="TOO_MANY", sentence=sentence)
        if isinstance(found, Grant):
            return found
    return found


def by_rules(policy: Policy, task: Task, repository: str | None) -> Verdict:
    """What the rules alone say of such a task, for whoever writes them."""
    found: Verdict = Refusal(code="NO_RULE", sentence="")
    for rule in _about(policy, task):
        if isinstance(rule, Refusal):
            return rule
        found = _by_rule(rule, task.verb, None, [repository] if repository else [])
        if isinstance(found, Grant):
            return found
    return found


def _about(policy: Policy, task: Task) -> Iterator[Rule | Refusal]:
    """Rules about the task that name its verb; or why there are none."""
    about = [rule for rule in policy.rules if rule.is_about(task)]
    if not about:
        where = f"agent {task.agent}, {task.target} and {task.environment} together"
        yield Refusal(code="NO_RULE", sentence=f"no rule is about {where}")
    elif not any(rule.lets(task.verb) for rule in about):
        names = ", ".join(rule.name for rule in about)
        yield Refusal(code="VERB", sentence=f"{task.verb} on {task.target} is not among the verbs of {names}")
    yield from (rule for rule in about if rule.lets(task.verb))


def _by_rule(rule: Rule, verb: Verb, work: Work | None, repositories: Sequence[str]) -> Verdict:
    refused = _work_by_rule(rule, work)
    if refused is None and verb in DEPLOYING:
        strange = [one for one in repositories if not rule.lets_repository(one)]
        refused = f"nothing of {strange[0]} is deployed" if strange else None
    return (
        Grant(rule=rule.name) if refused is None else Refusal(code="NOT_LET", sentence=f"rule {rule.name}: {refused}")
    )


def _work_by_rule(rule: Rule, work: Work | None) -> str | None:
    match work:
        case Errand() if not fits(rule.commands, work.name):
            return f"the command {work.name[:80]!r} is not let"
        case Upload() if not fits(rule.uploads, work.name):
            return f"uploads to {work.name[:80]!r} are not let"
        case Hold() if timedelta(seconds=work.seconds) > rule.hold:
            return f"to hold for {work.seconds} s is longer than {rule.hold}"
        case Upgrade() if rule.repositories is None or not fits(rule.repositories, work.artifact.partition("@")[0]):
            return f"the agent is not upgraded from {work.artifact[:200]}"
        case _:
            return None
