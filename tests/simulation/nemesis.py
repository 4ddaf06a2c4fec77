"""Who makes trouble: reconcilers die and freeze, targets go away, hands meddle, the source fails, people press
buttons."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

import anyio

from desired_state.findings import Finding
from desired_state.model import DesiredState
from desired_state.resolve import Resolved
from drivers.errors import Conflict, DriverError
from drivers.memory import Host, Trouble
from reconciler.commands import Declined
from reconciler.core.intent import Grant
from reconciler.loop import execute, reconcile
from reconciler.store import environments, jobs, memories
from reconciler.store.errors import StoreError
from reconciler.store.records import HandSuspension, Job, Wish
from stickers.names import PlacementId
from tests.simulation.scenario import artifact
from tests.simulation.world import Incarnation, Simulation, asked, is_death

RATES: Final[dict[str, dict[Trouble, float]]] = {
    "crashes": {Trouble.CRASH: 0.004},
    "answers": {Trouble.LOST: 0.02},
    "slow": {Trouble.SLOW: 0.03},
    "hanging": {Trouble.HANG: 0.006},
    "unreachable": {Trouble.UNREACHABLE: 0.02},
    "busy": {Trouble.BUSY: 0.02},
}  # of each border between a driver and a target that is crossed


def rates(on: frozenset[str]) -> dict[Trouble, float]:
    return {trouble: rate for name, given in RATES.items() if name in on for trouble, rate in given.items()}


class Nemesis:
    def __init__(self, sim: Simulation) -> None:
        self.sim, self.dice = sim, sim.dice
        self._number = 0
        self._acts: list[tuple[str, float, Callable[[], Awaitable[None] | None]]] = [
            ("crashes", 1.0, self._kill),
            ("failpoints", 2.0, self._kill_at_a_point),
            ("unreachable", 1.5, self._cut),
            ("hands", 4.0, self._meddle),
            ("stickers", 2.0, self._stick),
            ("intruders", 1.0, self._intrude),
            ("stubborn", 2.0, self._freeze),
            ("replicas", 0.7, self._freeze),
            ("source", 2.0, self._source),
            ("people", 4.0, self._press_any),
            ("clock", 1.0, self._jump),
            ("events lost", 1.0, self._lose_events),
            ("drains", 1.0, self._drain),
        ]

    # -- the course of a run ----------------------------------------------------------------------------------------

    async def rage(self) -> None:
        """From the first release to the end of the chaos; releases are written on the way."""
        sim = self.sim
        sim.rates = rates(sim.scenario.on)
        begun = anyio.current_time()
        releases = sorted(self.dice.uniform(0.15, 0.85) * sim.scenario.chaos for _ in range(sim.scenario.releases))
        acts = [(name, weight, act) for name, weight, act in self._acts if name in sim.scenario.on]
        while (passed := anyio.current_time() - begun) < sim.scenario.chaos:
            if releases and passed >= releases[0]:
                releases.pop(0)
                self.release()
                if "people" in sim.scenario.on and self.dice.random() < 0.5:
                    await self._press("sync", often=2)  # whoever has released it does not wait
            elif acts:
                [(_, _, act)] = self.dice.choices(acts, [weight for _, weight, _ in acts])
                outcome = act()
                if outcome is not None:
                    await outcome
            await anyio.sleep(min(self.dice.expovariate(1 / 7), 25))

    async def mend(self) -> None:
        """The chaos ends: everything that was broken is whole again, and people leave it alone."""
        sim = self.sim
        sim.say("nemesis", "mends everything")
        sim.chaotic, sim.rates, sim.offset = False, {}, sim.offset
        for host in sim.fleet.hosts.values():
            host.mend()
        for one in sim.living:
            one.dies_at = one.freezes_at = None
            self._thaw(one)
        sim.documents.broken = None
        if not sim.documents.resolved.environments:
            self._write(sim.author.state(), "the documents again")
        if self.dice.random() < 0.5:
            self.release(good=True)
        await self._leave_alone()

    async def _leave_alone(self) -> None:
        """Suspensions end and paused jobs go on."""
        sim, id = self.sim, self.sim.scenario.environment
        if asked(sim, lambda c: environments.load(c, id)) is None:
            return
        await sim.store.write(lambda c: environments.resume(c, id, "ada", sim.store.now()))
        job = asked(sim, lambda c: jobs.active(c, id))
        if job is not None and job.wish is Wish.PAUSE:
            self._wish(job, Wish.CONTINUE)

    async def keep_alive(self, place: str) -> None:
        """One reconciler after another, in one place."""
        sim = self.sim
        while True:
            self._number += 1
            one = Incarnation(sim, place, self._number)
            sim.living.append(one)
            sim.say(one.name, "starts")
            if "failpoints" in sim.scenario.on and sim.chaotic and self.dice.random() < 0.3:
                one.dies_at = self.dice.randrange(1, 60)
            await one.live()
            sim.living.remove(one)
            await anyio.sleep(self.dice.uniform(0.1, 12 if sim.chaotic else 1))

    # -- documents --------------------------------------------------------------------------------------------------

    def first_release(self) -> None:
        self._write(self.sim.author.state(), "the first documents")

    def release(self, *, good: bool = False) -> None:
        version = self.sim.author.next(good=good)
        for digest, script in self.sim.author.scripts.items():
            self.sim.fleet.scripts[digest] = script  # type: ignore[index]
        how = ", ".join(
            f"{name} {number} {self.sim.author.scripts.get(artifact(name, number).digest, 'healthy')}"
            for name, number in version.parts.items()
        )
        self._write(self.sim.author.state(), f"{version.name}: {how}, {version.level}, {version.targets} targets"[:200])

    def _write(self, state: DesiredState, what: str) -> None:
        resolved = Resolved(
            revision="", environments={state.environment.id: state}, releases=(state.release,), documents=3
        )
        self.sim.documents.write(resolved, what)

    def _source(self) -> None:
        documents = self.sim.documents
        match self.dice.randrange(5):
            case 0:
                documents.broken = "simulated: the repository does not answer"
                self.sim.say("source", "does not answer")
            case 1:
                documents.broken = None
                self.sim.say("source", "answers")
            case 2:
                documents.write(Resolved(revision=""), "nothing: every document is gone")
            case 3:
                finding = Finding(file="a.yaml", line=1, column=1, path="", code="X", found="x", expected="y")
                documents.write(Resolved(revision="", findings=(finding,)), "something that is no document")
            case 4:
                self._write(self.sim.author.state(), "the documents again")

    # -- reconcilers ------------------------------------------------------------------------------------------------

    def _one(self) -> Incarnation | None:
        return self.dice.choice(self.sim.living) if self.sim.living else None

    def _kill(self) -> None:
        if one := self._one():
            one.kill("by the nemesis")

    def _kill_at_a_point(self) -> None:
        if one := self._one():
            one.dies_at = self.dice.randrange(1, 25)
            self.sim.say("nemesis", f"{one.name} will die at failpoint {one.dies_at} from now")

    async def _freeze(self) -> None:
        """Stopped as by SIGSTOP at one of its next failpoints, mostly for longer than its lease."""
        one = self._one()
        if one is None or one.frozen is not None:
            return
        one.freezes_at = self.dice.randrange(1, 20)
        await anyio.sleep(self.dice.uniform(10, 45))
        one.freezes_at = None
        self._thaw(one)

    def _thaw(self, one: Incarnation) -> None:
        if one.frozen is not None:
            one.frozen.set()
            one.frozen = None
            self.sim.say(one.name, "wakes")

    def _drain(self) -> None:
        if one := self._one():
            self.sim.say(one.name, "is asked to stop")
            one.reconciler.stop()

    def _jump(self) -> None:
        """The wall clock is set; monotonic time goes on as ever."""
        by = self.dice.choice((-3600, -30, 30, 3600))
        self.sim.offset += timedelta(seconds=by)
        self.sim.say("nemesis", f"sets the wall clock by {by} s")

    # -- targets ----------------------------------------------------------------------------------------------------

    def _host(self) -> Host | None:
        hosts = sorted(self.sim.fleet.hosts.items())
        return self.dice.choice(hosts)[1] if hosts else None

    def _cut(self) -> None:
        host = self._host()
        if host is None:
            return
        if host.faults:
            host.mend()
            self.sim.say("nemesis", f"{host.target} is back")
        else:
            host.cut()
            self.sim.say("nemesis", f"{host.target} cannot be reached")

    def _lose_events(self) -> None:
        self.sim.fleet.lose_events()

    def _serving(self) -> tuple[Host, PlacementId] | None:
        found = [
            (host, id) for _, host in sorted(self.sim.fleet.hosts.items()) for id in sorted(host.places)
            if host.places[id].served is not None
        ]  # fmt: skip
        return self.dice.choice(found) if found else None

    def _meddle(self) -> None:
        """Somebody changes what runs, behind Holdfast's back."""
        if not (found := self._serving()):
            return
        host, id = found
        act = self.dice.choice(("kill", "kill", "swap", "remove", "configure"))
        self.sim.say("hand", f"{act} {id}")
        match act:
            case "kill":
                host.kill(id)
            case "swap":
                host.swap(id, artifact(id.component, "by-hand"))
            case "remove":
                host.remove(id)
            case "configure":
                host.configure(id, None)

    def _stick(self) -> None:
        """Somebody changes what is worn."""
        if not (found := self._serving()):
            return
        host, id = found
        act = self.dice.choice(("forge", "replay", "peel", "garble"))
        self.sim.say("hand", f"{act} {id}")
        try:
            match act:
                case "forge":
                    host.forge(id)
                case "replay":
                    host.replay(id, self.dice.choice((1, 2)))
                case "peel":
                    host.peel(id)
                case "garble":
                    host.garble(id)
        except Conflict:
            self.sim.say("hand", "finds nothing to do that with")

    def _intrude(self) -> None:
        """Somebody runs something of their own; sometimes the very artifact that is declared."""
        host = self._host()
        if host is None:
            return
        version = self.sim.author.version.parts["api"] if self.dice.random() < 0.5 else "theirs"
        name = f"theirs-{self.dice.randrange(3)}"
        if name not in host.foreign:
            host.intrude(name, artifact("api", version))
            self.sim.say("hand", f"runs {name} of their own on {host.target}")

    # -- people -----------------------------------------------------------------------------------------------------

    async def _press_any(self) -> None:
        buttons = ("sync", "sync", "rollback", "pause", "cancel", "suspend", "resume", "lift")
        await self._press(self.dice.choice(buttons), often=self.dice.choice((1, 1, 2)))

    async def _press(self, what: str, *, often: int) -> None:
        """A button: what it answers is an answer, whatever it is."""
        one = self._one()
        if one is None or one.frozen is not None:
            return
        self.sim.say("person", f"{what} {'twice' * (often - 1)}".rstrip())
        async with anyio.create_task_group() as presses:
            for _ in range(often):
                presses.start_soon(self._pressed_safely, one, what)

    async def _pressed_safely(self, one: Incarnation, what: str) -> None:
        try:
            with anyio.move_on_after(60):
                await self._pressed(one, what)
        except (Declined, StoreError, DriverError) as error:
            self.sim.say("person", f"is told: {type(error).__name__}: {error}"[:200])
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:
            if not is_death(error):
                raise
            one.kill("while a person waited")

    async def _pressed(self, one: Incarnation, what: str) -> None:
        sim, id = self.sim, self.sim.scenario.environment
        match what:
            case "sync":
                await one.reconciler.sync(id, Grant(advance=True, heal=True), actor="ada")
            case "rollback":
                await one.reconciler.rollback(id, actor="ada", reason="it is slow")
            case "pause" | "cancel":
                job = asked(sim, lambda c: jobs.active(c, id))
                if job is not None:
                    await anyio.sleep(self.dice.uniform(0, 6))  # people look, think, and press
                    self._wish(job, Wish.PAUSE if what == "pause" else Wish.CANCEL)
            case "suspend":
                until = sim.now() + timedelta(seconds=self.dice.uniform(5, 40))
                suspension = HandSuspension(reason="maintenance", actor="ada", since=sim.now(), until=until)
                await sim.store.write(lambda c: environments.suspend(c, id, suspension))
                one.reconciler.request(reconcile(id))
            case "resume":
                await self._leave_alone()
                one.reconciler.request(reconcile(id))
            case "lift":
                await sim.store.write(lambda c: memories.lift(c, id, "ada", sim.now()))
                one.reconciler.request(reconcile(id))

    def _wish(self, job: Job, wish: Wish) -> None:
        """A wish is written by whoever serves people, and every reconciler hears of it."""
        if not self.sim.wish(job.id, wish):
            return
        for one in self.sim.living:
            one.reconciler.request(execute(job.id))
