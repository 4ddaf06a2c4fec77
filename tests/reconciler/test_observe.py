"""Looking: never an error, unknown for exactly those that cannot be seen, and cheap when nothing has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import anyio
import pytest

from desired_state.model import Target
from drivers.contract import Capabilities, Look, Unit
from drivers.errors import Refused
from reconciler.core.known import Trust
from reconciler.observe import Eyes, Sight
from stickers import codec
from stickers.names import EnvironmentId, InstallationId, TargetId
from stickers.observation import Observation, Standing, Worn
from stickers.signature import Envelope, Keyring, Statement
from tests.harness import virtual_time
from tests.reconciler.core.builders import place, placement, sticker, workload
from tests.reconciler.rig import HERE, PROD, keyring, signer

anyio_backend = virtual_time.backend()


class Sights:
    """A driver that answers what the test puts there; some targets hang, and a batch with a bad one raises."""

    kind = "sights"
    capabilities = Capabilities(unit=Unit.COMPONENT)

    def __init__(self) -> None:
        self.there: dict[TargetId, Observation] = {}
        self.hang: set[TargetId] = set()
        self.bad: dict[TargetId, Exception] = {}
        self.calls: list[list[TargetId]] = []
        self.running = self.most = 0

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        targets = [look.target.id for look in looks]
        self.calls.append(targets)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await anyio.sleep(1)
            for target in targets:
                if target in self.bad:
                    raise self.bad[target]
                if target in self.hang:
                    await anyio.sleep_forever()
            return {target: self.there[target] for target in targets if target in self.there}
        finally:
            self.running -= 1

    async def apply(self, action: Any, *, report: Any) -> Any:
        raise AssertionError("nobody acts here")

    async def aclose(self) -> None:
        pass


def look(number: int, driver: str = "sights") -> Look:
    return Look(target=Target(id=place(number).target, environment=PROD, driver=driver))


def seen(number: int, **parts: Any) -> Observation:
    return Observation(target=place(number).target, at=virtual_time.EPOCH, **parts)


def eyes(*drivers: Any, keys: Keyring | None = None, **sight: Any) -> Eyes:
    known = {driver.kind: driver for driver in drivers}
    return Eyes(known, keys or keyring(), HERE, now=virtual_time.now, sight=Sight(**({"deadline": 10.0} | sight)))


def sealed(number: int, environment: EnvironmentId = PROD, installation: InstallationId = HERE) -> Envelope:
    made = sticker(placement(place(number)))
    claim = replace(made.claim, installation=installation, environment=environment.partition("/")[2])  # type: ignore[arg-type]
    return signer().sign(Statement.STICKER, environment, codec.payload(replace(made, claim=claim)))


def standing(number: int, worn: Worn | None) -> Standing:
    id = place(number)
    return Standing(component=id.component, slot=id.slot, worn=worn, workload=workload(placement(id)))


async def test_everything_is_asked_in_one_call() -> None:
    driver = Sights()
    driver.there = {place(n).target: seen(n) for n in range(20)}
    found = await eyes(driver).look(PROD, [look(n) for n in range(20)])
    assert len(driver.calls) == 1
    assert [one.observation for one in found.values()] == list(driver.there.values())


async def test_a_hanging_target_alone_is_unseen_and_the_next_look_does_not_wait_for_it() -> None:
    driver = Sights()
    driver.there = {place(n).target: seen(n) for n in range(5)}
    driver.hang = {place(3).target}
    mine, looks = eyes(driver), [look(n) for n in range(5)]
    found = await mine.look(PROD, looks)
    assert {target for target, one in found.items() if one.observation.unseen} == driver.hang
    assert found[place(3).target].observation.unseen == "no answer within 10 s"
    driver.calls.clear()
    again = await mine.look(PROD, looks)
    assert sorted(map(len, driver.calls)) == [1, 4]
    assert again[place(0).target].observation.unseen is None
    driver.hang.clear()
    await mine.look(PROD, looks)
    driver.calls.clear()
    await mine.look(PROD, looks)
    assert [len(call) for call in driver.calls] == [5]


async def test_an_exception_makes_exactly_its_targets_unknown() -> None:
    driver = Sights()
    driver.there = {place(n).target: seen(n) for n in range(4)}
    driver.bad = {place(0).target: Refused("no entry"), place(2).target: ZeroDivisionError("oh")}
    found = await eyes(driver).look(PROD, [look(n) for n in range(4)])
    said = [one.observation.unseen for one in found.values()]
    assert said == ["no entry", None, "looking failed: ZeroDivisionError: oh", None]


async def test_a_driver_that_cannot_be_had_is_a_reason() -> None:
    class Shelf(dict[str, Any]):
        def __missing__(self, kind: str) -> Any:
            if kind == "broken":
                raise ImportError("no module named broken_sdk")
            raise KeyError(kind)

    mine = Eyes(Shelf(), keyring(), HERE, now=virtual_time.now)
    found = await mine.look(PROD, [look(0, "unheard"), look(1, "broken")])
    said = [one.observation.unseen for one in found.values()]
    assert said == [
        "no driver of kind 'unheard' is known here",
        "driver 'broken' cannot be loaded: ImportError: no module named broken_sdk",
    ]


async def test_a_target_that_the_driver_forgets_is_unseen() -> None:
    found = await eyes(Sights()).look(PROD, [look(0)])
    assert found[place(0).target].observation.unseen == "no answer about this target in time"


async def test_parallel_calls_are_bounded() -> None:
    driver = Sights()
    driver.there = {place(n).target: seen(n) for n in range(40)}
    driver.bad = {place(0).target: Refused("the batch fails, so each is asked alone")}
    await eyes(driver, parallel=4).look(PROD, [look(n) for n in range(40)])
    assert driver.most == 4


async def test_looking_at_everything_is_bounded_in_time_whatever_hangs() -> None:
    driver = Sights()
    driver.hang = {place(n).target for n in range(100)}
    began = anyio.current_time()
    found = await eyes(driver, parallel=2).look(PROD, [look(n) for n in range(100)])
    assert anyio.current_time() - began <= 30.1
    assert all(one.observation.unseen for one in found.values())


async def test_the_same_observation_is_the_same_sight() -> None:
    driver = Sights()
    driver.there = {place(0).target: seen(0, standings=(standing(0, Worn(envelope=sealed(0))),))}
    mine = eyes(driver)
    first = await mine.look(PROD, [look(0)])
    again = await mine.look(PROD, [look(0)])
    assert again[place(0).target] is first[place(0).target]


async def test_what_is_seen_again_is_held_once_with_the_time_of_the_newer_look() -> None:
    driver = Sights()
    sight = eyes(driver)
    driver.there = {place(1).target: seen(1, standings=(standing(1, Worn(envelope=sealed(1))),))}
    first = (await sight.look(PROD, [look(1)]))[place(1).target]
    later = virtual_time.now()
    driver.there = {place(1).target: replace(seen(1, standings=(standing(1, Worn(envelope=sealed(1))),)), at=later)}
    again = (await sight.look(PROD, [look(1)]))[place(1).target]
    assert again.observation.standings is first.observation.standings
    assert again.observation.at == later
    assert again.readings is first.readings


async def test_no_sticker_is_verified_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[Envelope] = []
    verify = codec.verified

    def counted(envelope: Envelope, keys: Keyring) -> Any:
        verified.append(envelope)
        return verify(envelope, keys)

    monkeypatch.setattr(codec, "verified", counted)
    driver, worn = Sights(), Worn(envelope=sealed(0))
    mine = eyes(driver)
    for health in ("answers 200", "answers 201", "answers 202"):
        of = replace(standing(0, worn), debris=(health,))
        driver.there = {place(0).target: seen(0, standings=(of,))}
        found = await mine.look(PROD, [look(0)])
        assert found[place(0).target].readings[place(0)].trust is Trust.VALID
    assert len(verified) == 1


async def test_other_keys_make_everything_be_read_anew() -> None:
    driver = Sights()
    driver.there = {place(0).target: seen(0, standings=(standing(0, Worn(envelope=sealed(0))),))}
    mine = eyes(driver)
    assert (await mine.look(PROD, [look(0)]))[place(0).target].readings[place(0)].trust is Trust.VALID
    mine.believe(Keyring([]))
    assert (await mine.look(PROD, [look(0)]))[place(0).target].readings[place(0)].trust is Trust.FORGED


@pytest.mark.parametrize(
    ("worn", "trust"),
    [
        (None, Trust.NONE),
        (Worn(envelope=None, problem="half a file"), Trust.UNREADABLE),
        (Worn(envelope="{}"), Trust.FORGED),
        (Worn(envelope=sealed(0)), Trust.VALID),
        (Worn(envelope=sealed(1)), Trust.FORGED),
        (Worn(envelope=sealed(0, EnvironmentId("default/staging"))), Trust.FORGED),
        (Worn(envelope=sealed(0, PROD, InstallationId("another"))), Trust.FORGED),
        (Worn(envelope=sealed(0).replace('"sig":"', '"sig":"00')), Trust.FORGED),
    ],
    ids=["none", "unreadable", "no envelope", "valid", "of another target", "environment", "installation", "tampered"],
)
async def test_how_far_a_sticker_is_believed(worn: Worn | None, trust: Trust) -> None:
    driver = Sights()
    driver.there = {place(0).target: seen(0, standings=(standing(0, worn),))}
    found = await eyes(driver).look(PROD, [look(0)])
    reading = found[place(0).target].readings[place(0)]
    assert reading.trust is trust
    assert (reading.reason == "") is (trust is Trust.VALID)
