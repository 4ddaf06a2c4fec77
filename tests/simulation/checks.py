"""What must hold: after every effect on a target, after every write to the database, and when all is whole again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import anyio

from desired_state.model import DesiredState, Placement, StrategyKind
from drivers.contract import Deploy, Remove
from drivers.memory import Deed, Effect
from drivers.memory.world import HAND, Thing
from reconciler.core.intent import Code, JobKind, Plan
from reconciler.core.judge import Verdict
from reconciler.core.machine import JobState, TaskState
from reconciler.means import Means
from reconciler.reconcile import Survey, View
from reconciler.store import audit, environments, history, jobs, memories, tasks
from reconciler.store.records import Direction, Job, Task
from stickers.names import ActionKey, Digest, JobId, PlacementId, TargetId
from stickers.observation import HealthState, WorkloadState
from tests.simulation.scenario import CHECK
from tests.simulation.world import Simulation, asked

SETTLED: Final = frozenset(
    {Code.GAVE_UP, Code.REFUSED, Code.NO_LAST_GOOD, Code.NOT_PRUNED, Code.REMOVAL_LIMIT, Code.UNMANAGED}
)  # what may stay as it is when nothing is broken any more: a person has to say
LOOKS_BACK: Final = 40.0  # seconds that may pass between a look and the record of what it saw
PROVEN_AFTER: Final = CHECK.interval.total_seconds() * (CHECK.successes - 1)
DONE: Final = (TaskState.SUCCEEDED, TaskState.SKIPPED)
Content = tuple[Digest, Digest]


class Checks:
    def __init__(self, sim: Simulation) -> None:
        self.sim, self.id = sim, sim.scenario.environment
        self.raw = sim.probe
        self.effects = _Effects(sim)
        self.oracle = Oracle()
        self._jobs = 0
        self._standings = 0
        self._backs: set[str] = set()
        self._marks: dict[str, Sequence[int]] = {}
        self._allowed: dict[JobId, int] = {}
        sim.fleet.on_effect = self.effects.happened
        sim.after_write = self.written

    # -- after every write ------------------------------------------------------------------------------------------

    def written(self) -> None:
        """The database as it now is. Each check is one small statement."""
        self._one_active_job()
        self._small_waves()
        self._unknown_is_no_failure()
        self._wishes_stand()
        self._new_jobs()
        self._ended_jobs_say_why()
        self._new_standings()

    def _ask(self, statement: str, *values: object) -> Sequence[Any]:
        return self.raw(statement, values)

    def _one_active_job(self) -> None:
        for environment, count in self._ask(
            "select environment, count(*) from job where ended_at is null group by environment having count(*) > 1"
        ):
            self.sim.broken(f"{environment} has {count} active jobs")

    def _small_waves(self) -> None:
        rows = self._ask(
            "select job.id, count(distinct task.target), count(distinct task.wave)"
            " from task join job on task.job = job.id where job.ended_at is null"
            " and task.state in ('dispatched', 'running', 'verifying') group by job.id"
        )
        for job, targets, waves in rows:
            if targets > self._allowed.get(job, 10**6):
                self.sim.broken(f"{job} acts on {targets} targets at once, {self._allowed[job]} may")
            if waves > 1:
                self.sim.broken(f"{job} carries {waves} waves at once")

    def _unknown_is_no_failure(self) -> None:
        for (task,) in self._ask(
            "select id from task where state = 'failed' and code in ('OUTCOME_UNKNOWN', 'UNKNOWN')"
        ):
            self.sim.broken(f"{task} has failed by what nobody knows")

    def _wishes_stand(self) -> None:
        for job, wish in self.sim.wishes.items():
            [(found,)] = self._ask("select wish from job where id = ?", job)
            if found != wish:
                self.sim.broken(f"{job} was asked to {wish}, and a later write made that {found}")

    def _ended_jobs_say_why(self) -> None:
        for (job,) in self._ask("select id from job where ended_at is not null and message = ''"):
            self.sim.broken(f"{job} has ended and does not say why")

    def _new_jobs(self) -> None:
        for number, id, *marks in self._ask("select number, id, fence, version, wave from job where ended_at is null"):
            self._rises(id, marks)
            if number > self._jobs:
                self._jobs = number
                self._made(JobId(id))
        self._moved()

    def _rises(self, id: str, marks: Sequence[int]) -> None:
        """Fence, version and wave (of a task: attempt) only rise: what lowers one has written over something newer."""
        before = self._marks.get(id, marks)
        for name, was, now in zip(("fence", "version", "progress"), before, marks, strict=True):
            if now < was:
                self.sim.broken(f"{id} was written over: its {name} is {now}, after {was}")
        self._marks[id] = marks

    def _made(self, id: JobId) -> None:
        job = asked(self.sim, lambda c: jobs.load(c, id))
        desired = asked(self.sim, lambda c: environments.desired(c, self.id))
        assert job is not None
        assert desired is not None
        plan = asked(self.sim, lambda c: jobs.plan(c, job))
        self._allowed[id] = allowed = _allowed(desired)
        for wave in plan.waves:
            if len(wave.targets) > allowed:
                self.sim.broken(f"a wave of {id} has {len(wave.targets)} targets, {allowed} may be")
        self._no_refused_again(job, plan)
        self._removes_what_nobody_declares(job, plan)
        self.oracle.made(job.number, {each.id: each.content for each in desired.placements})
        if job.kind is JobKind.ROLLBACK:
            self._by_hand_to_the_last_good(plan, desired)
            self.oracle.left_behind(job.number, {each.id: each.content for each in desired.placements})

    def _no_refused_again(self, job: Job, plan: Plan) -> None:
        known = asked(self.sim, lambda c: memories.known(c, self.id, self.sim.now()))
        for change in _changes(plan):
            if not isinstance(change, Deploy) or change.placement.trial not in known.refused:
                continue
            good = known.memories[change.id].last_good if change.id in known.memories else None
            if good is None or good.content != change.placement.content:
                self.sim.broken(f"{job.id} brings {change.placement.release} to {change.id}, which is refused here")

    def _removes_what_nobody_declares(self, job: Job, plan: Plan) -> None:
        row = asked(self.sim, lambda c: environments.load(c, self.id))
        assert row is not None
        written = [one.environments[self.id] for one in self.sim.documents.valid if self.id in one.environments]
        said = [state for state in written if state.revision == row.revision]
        declared = {placement.id for state in said for placement in state.placements}
        for change in _changes(plan):
            if not isinstance(change, Remove) or job.kind is JobKind.ROLLBACK:
                continue
            if not said or change.id in declared:
                self.sim.broken(f"{job.id} removes {change.id}, which nobody took out of the documents")

    # -- rollbacks --------------------------------------------------------------------------------------------------

    def _moved(self) -> None:
        """Tell the oracle what came about, and hold every way back against it."""
        for id, number, state in self._ask(
            "select id, number, state from job where ended_at is null or number >= ?", self._jobs - 1
        ):
            if state == JobState.ROLLING_BACK:
                self.oracle.turned_round(number)
            for task, moved, direction, *marks in self._ask(
                "select id, state, direction, fence, version, attempt from task where job = ?", id
            ):
                self._rises(task, marks)
                self._task_moved(number, task, moved, direction)

    def _task_moved(self, number: int, id: str, state: str, direction: str) -> None:
        if direction == Direction.BACK and id not in self._backs:
            self._backs.add(id)
            self._back_to_the_last_good(number, self._task(id))
        if state in DONE and id not in self.oracle.told:
            self.oracle.done(number, self._task(id))

    def _task(self, id: str) -> Task:
        task = asked(self.sim, lambda c: tasks.load(c, id))  # type: ignore[arg-type]
        assert task is not None
        return task

    def _back_to_the_last_good(self, number: int, task: Task) -> None:
        for change in task.intent.changes:
            expected = self.oracle.before(change.id, number)
            found = None if isinstance(change, Remove) else change.placement.content
            if found != expected:
                self.sim.broken(
                    f"{task.id} goes back to {_short(found)} on {change.id}, last good was {_short(expected)}"
                )

    def _by_hand_to_the_last_good(self, plan: Plan, desired: DesiredState) -> None:
        declared = {placement.id: placement.content for placement in desired.placements}
        for change in _changes(plan):
            if isinstance(change, Remove):
                continue
            expected = self.oracle.behind(change.id, declared)
            if expected is not None and change.placement.content != expected:
                self.sim.broken(
                    f"a rollback by hand brings {_short(change.placement.content)} to {change.id}, "
                    f"before was {_short(expected)}"
                )

    # -- what is reported -------------------------------------------------------------------------------------------

    def _new_standings(self) -> None:
        rows = self._ask(
            "select number, target, component, slot, verdict, content from standing where number > ?", self._standings
        )
        for number, target, component, slot, verdict, body in rows:
            self._standings = max(self._standings, number)
            if verdict == Verdict.IN_SYNC:
                self._was_in_sync(PlacementId(target, component, slot), body)

    def _was_in_sync(self, id: PlacementId, body: str) -> None:
        judged = json.loads(body)
        wanted = (judged["wanted"] or judged["declared"])["artifact"]
        if not self.effects.stood(id, wanted, anyio.current_time() - LOOKS_BACK):
            self.sim.broken(f"{id} is reported in sync, and did not run {wanted[7:19]}")

    # -- when everything is whole again -----------------------------------------------------------------------------

    def resting(self) -> str | None:
        """Why the environment is not at rest yet; None when it is."""
        view = self._view()
        if view is None:
            return "nothing was ever accepted"
        if view.active is not None:
            return f"job {view.active.id} is {view.active.state}"
        if view.row.revision != self.sim.author.state().revision:
            return "the latest documents are not accepted"
        decision = asked(self.sim, lambda c: history.last_decision(c, self.id))
        if decision is None or decision.content["generation"] != view.row.generation:
            return "nothing was decided on the latest desire"
        blocked = {one["placement"]: one["code"] for one in decision.content["blocked"]}
        waits = SETTLED & set(blocked.values())
        declared = {each.id: each for each in view.desired.placements}
        for id, placement in _effective(view).items():
            code = blocked.get(str(id))
            if code == Code.REFUSED and placement is not None:
                return f"{id} is left alone, and it has a last good"
            if code in SETTLED or (code == Code.AFTER and waits):
                continue
            if code is not None:
                return f"{id} is blocked: {code}"
            if not self._stands(id, (placement or declared[id]).content):
                return f"{id} does not run what is wanted"
        return None

    def _stands(self, id: PlacementId, content: Content) -> bool:
        host = self.sim.fleet.hosts.get(id.target)
        served = host.places[id].served if host is not None and id in host.places else None
        return served is not None and served.content == content and served.up(self.sim.fleet.clock())

    def _view(self) -> View | None:
        def read(c: Any) -> View | None:
            row, desired = environments.load(c, self.id), environments.desired(c, self.id)
            if row is None or desired is None:
                return None
            known = memories.known(c, self.id, self.sim.now())
            return View(row=row, desired=desired, known=known, active=jobs.active(c, self.id), last=None)

        return asked(self.sim, read)

    def at_rest(self) -> None:
        """What holds of a fleet at rest beside the rest itself."""
        view = self._view()
        assert view is not None
        for id, memory in view.known.memories.items():
            expected = self.oracle.last(id)
            found = memory.last_good.content if memory.last_good else None
            if found != expected:
                self.sim.broken(f"{id} remembers {_short(found)} as last good, it was {_short(expected)}")
        self._audit_is_whole()

    def _audit_is_whole(self) -> None:
        """The chain holds, and tells of every job how it was made and how it ended."""
        entries = asked(self.sim, lambda c: audit.following(c, audit.beginning(self.id), 100_000))
        found = audit.fault(entries, audit.beginning(self.id))
        if isinstance(found, audit.Fault):
            self.sim.broken(f"audit entry {found.seq} of {found.chain}: {found.says}")
        told = {(entry.subject, entry.action) for entry in entries}
        for id, state in self._ask("select id, state from job"):
            for action in ("job.created", f"job.{state}"):
                if (id, action) not in told:
                    self.sim.broken(f"the audit log does not tell {action} of {id}")


class Oracle:
    """What each placement last ran in health, told by the tasks alone: few lines that share nothing with the code."""

    def __init__(self) -> None:
        self.goods: dict[PlacementId, list[tuple[int, Content | None]]] = {}
        self.told: set[str] = set()
        self._round: set[int] = set()
        self._declared: dict[int, dict[PlacementId, Content]] = {}

    def done(self, job: int, task: Task) -> None:
        self.told.add(task.id)
        for change in task.intent.changes:
            content = None if isinstance(change, Remove) else change.placement.content
            forward = task.direction is Direction.FORWARD
            self.goods.setdefault(change.id, []).append((job if forward else -job, content))

    def turned_round(self, job: int) -> None:
        """What the job brought is good no more."""
        if job not in self._round:
            self._round.add(job)
            for id, goods in self.goods.items():
                before = next((content for number, content in reversed(goods) if number != job), None)
                self.goods[id] = [one for one in goods if one[0] != job or one[1] == before]

    def before(self, id: PlacementId, job: int) -> Content | None:
        """Last good when the job was made."""
        found = [content for number, content in self.goods.get(id, []) if abs(number) < job]
        return found[-1] if found else None

    def made(self, job: int, declared: dict[PlacementId, Content]) -> None:
        self._declared[job] = declared

    def behind(self, id: PlacementId, declared: dict[PlacementId, Content]) -> Content | None:
        """What ran before what is declared was declared, by whatever name."""
        earlier = [job for job, content in sorted(self._declared.items()) if content != declared]
        found = [content for job, content in self.goods.get(id, []) if earlier and abs(job) <= earlier[-1]]
        return found[-1] if found else None

    def left_behind(self, job: int, declared: dict[PlacementId, Content]) -> None:
        """A person goes back: what is declared is good no more, wherever it ran."""
        for id, goods in self.goods.items():
            before = self.behind(id, declared)
            if goods and goods[-1][1] == declared.get(id) != before:
                goods.append((job, before))

    def last(self, id: PlacementId) -> Content | None:
        goods = self.goods.get(id, [])
        return goods[-1][1] if goods else None


class _Effects:
    """What is done to targets, effect by effect."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self._fences: dict[PlacementId, int] = {}
        self._made: dict[tuple[ActionKey, PlacementId], set[str]] = {}
        self._meddled: set[PlacementId] = set()
        self._foreign: set[str] = set()
        self._served: dict[PlacementId, list[tuple[float, Digest | None]]] = {}

    def happened(self, effect: Effect) -> None:
        artifact = effect.artifact[7:13] if effect.artifact else ""
        key = effect.key[:6] if effect.key else ""
        what = f"{effect.deed} {effect.id or effect.target} {artifact} {effect.instance or ''} {effect.step}"
        self.sim.say(effect.who, f"{what} {key} {effect.fence}")
        if effect.who == HAND:
            self._by_hand(effect)
        else:
            self._by_driver(effect)
        if effect.id is not None:
            self._serves(effect.id)

    def _by_hand(self, effect: Effect) -> None:
        if effect.id is None and effect.instance is not None:
            self._foreign.add(effect.instance)
        if effect.id is not None:
            self._meddled.add(effect.id)

    def _by_driver(self, effect: Effect) -> None:
        if effect.instance in self._foreign:
            self.sim.broken(f"{effect.who} {effect.deed} {effect.instance}, which is not ours")
        if effect.id is None:
            return
        if effect.fence < self._fences.get(effect.id, 0):
            self.sim.broken(
                f"{effect.who} {effect.deed} {effect.id} under fence {effect.fence}, after {self._fences[effect.id]}"
            )
        self._fences[effect.id] = max(effect.fence, self._fences.get(effect.id, 0))
        match effect.deed:
            case Deed.MADE:
                self._once(effect.id, effect)
            case Deed.LABELLED:
                self._proven(effect.id, effect)
            case Deed.COLLECTED if effect.step == "put_back":
                self._undone(effect.id, effect)
            case Deed.STOPPED if effect.step in ("start", "switch", "settle"):
                self._no_gap(effect.id, effect)

    def _once(self, id: PlacementId, effect: Effect) -> None:
        """What was made under a key is made again only after it was undone."""
        assert effect.key is not None
        assert effect.instance is not None
        standing = self._made.setdefault((effect.key, id), set())
        standing.add(effect.instance)
        if len(standing) > 1 and id not in self._meddled:
            self.sim.broken(f"key {effect.key[:6]} has made {id} {len(standing)} times")

    def _undone(self, id: PlacementId, effect: Effect) -> None:
        if effect.key is not None and effect.instance is not None:
            self._made.get((effect.key, id), set()).discard(effect.instance)

    def _proven(self, id: PlacementId, effect: Effect) -> None:
        """A proven sticker is written for what runs, has run for as long as its proof takes, and can be healthy."""
        thing = self._thing(id)
        if id in self._meddled:
            return  # a hand came between the proof and its sticker, or may have
        if thing is None or thing.artifact.digest != effect.artifact:
            self.sim.broken(f"{id} is labelled {(effect.artifact or '')[7:19]} and something else serves")
            return
        age = self.sim.fleet.clock() - thing.since
        well = any(
            thing.script.at(age - back / 4).health is HealthState.HEALTHY for back in range(40) if age >= back / 4
        )
        if not well or age < PROVEN_AFTER - 1e-6:
            self.sim.broken(f"{id} is labelled {age:.2f} s after its start, unproven")

    def _no_gap(self, id: PlacementId, effect: Effect) -> None:
        """Where nothing fixes a port, the predecessor serves until its successor does."""
        thing = self.sim.fleet.hosts[id.target].thing(effect.instance or "")
        now = self.sim.fleet.clock()
        if self.sim.scenario.fixed_ports or thing is None or id in self._meddled:
            return
        ran = thing.script.at(now - thing.since).state is WorkloadState.RUNNING
        successor = self._thing(id)
        died = successor is not None and successor is not thing and successor.on  # by itself, since it was proven
        if ran and not died and self.sim.fleet.answering(id) is None:
            self.sim.broken(f"{effect.who} {effect.deed} what served {id} before its successor did")

    def _thing(self, id: PlacementId) -> Thing | None:
        host = self.sim.fleet.hosts[id.target]
        return host.places[id].served if id in host.places else None

    def _serves(self, id: PlacementId) -> None:
        thing = self._thing(id)
        now = thing.artifact.digest if thing else None
        served = self._served.setdefault(id, [])
        if not served or served[-1][1] != now:
            served.append((anyio.current_time(), now))

    def stood(self, id: PlacementId, artifact: str, since: float) -> bool:
        """Whether that artifact stood there at any time since."""
        served = self._served.get(id, [])
        until = [*(at for at, _ in served[1:]), float("inf")]
        return any(found == artifact and end >= since for (_, found), end in zip(served, until, strict=True))


def spied(sim: Simulation, survey: Any, planned: Any) -> tuple[Any, Any]:
    """The two decisions of a turn, watched: what was not seen is unknown, and nothing is planned for it."""

    async def watched_survey(means: Means, view: View) -> Survey:
        found: Survey = await survey(means, view)
        for target in _unseen(found):
            judged = found.diffed.judged.get(target)
            for drift in judged.drifts if judged else ():
                if drift.verdict is not Verdict.UNKNOWN:
                    sim.broken(f"{drift.id} was not seen and is called {drift.verdict}")
        return found

    def watched_planned(means: Means, surveyed: Survey, *grant: Any) -> Plan:
        plan: Plan = planned(means, surveyed, *grant)
        for intent in plan.intents:
            if intent.target in _unseen(surveyed):
                sim.broken(f"something is planned for {intent.target}, which was not seen")
        return plan

    return watched_survey, watched_planned


def _unseen(surveyed: Survey) -> list[TargetId]:
    return [target for target, seen in surveyed.seen.items() if seen.observation.unseen is not None]


def _changes(plan: Plan) -> list[Any]:
    return [change for intent in plan.intents for change in intent.changes]


def _effective(view: View) -> dict[PlacementId, Placement | None]:
    """What each placement should run, by rules of its own: the declared release, or all of last good while any of it is
    refused."""
    held = {placement.trial for placement in view.desired.placements} & set(view.known.refused)
    goods = {id: memory.last_good for id, memory in view.known.memories.items()}
    return {each.id: goods.get(each.id) if held else each for each in view.desired.placements}


def _allowed(desired: DesiredState) -> int:
    """Targets in one wave, by arithmetic of its own."""
    strategy, targets = desired.environment.strategy, len(desired.targets)
    if strategy.kind is StrategyKind.ALL_AT_ONCE:
        return 10**6
    share = int(targets * strategy.wave / 100) if strategy.percent else strategy.wave
    return share if share >= 1 else 1


def _short(content: Content | None) -> str:
    return f"{content[0][7:13]}/{content[1][7:13]}" if content else "nothing"
