"""Killed between any two calls that change something, an action is finished by the next one: one container to its key,
one that runs, a proven sticker, and never more than two stickers on the way."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from desired_state.model import Placement, Port
from drivers.contract import Action, Result
from drivers.docker import render
from drivers.docker.connection import Connection
from drivers.docker.engine import Engine
from drivers.errors import OutcomeUnknown
from stickers.sticker import Phase
from tests.drivers.docker.daemon import Daemon, health
from tests.drivers.docker.yard import Yard
from tests.harness import images

pytestmark = pytest.mark.usefixtures("without_traffic")

MOST = 40  # changing calls in one action; more would be a loop


class Killed(BaseException):
    """The process is gone: no handler and no shield sees this coming."""


@dataclass
class Fuse:
    """Burns down with each changing call. At zero the process dies before the call; with `lost` only the call's answer
    is lost, once."""

    left: int
    lost: bool = False
    blown: bool = False


class Mortal(Engine):
    def __init__(self, connection: Connection, fuse: Fuse) -> None:
        super().__init__(connection)
        self._fuse = fuse

    async def _read(self, call: Any) -> Any:
        if self._fuse.blown and not self._fuse.lost:
            raise Killed
        return await super()._read(call)

    async def _change(self, call: Any) -> Any:
        fuse = self._fuse
        fuse.left -= 1
        if fuse.left >= 0 or (fuse.lost and fuse.blown):
            return await super()._change(call)
        fuse.blown = True
        if not fuse.lost:
            raise Killed
        await super()._change(call)
        raise OutcomeUnknown("the answer was lost")


def mortal(yard: Yard, fuse: Fuse) -> Daemon:
    return Daemon(yard, engines=lambda connection: Mortal(connection, fuse))


@pytest.fixture
async def daemon(yard: Yard) -> AsyncIterator[Daemon]:
    async with Daemon(yard) as daemon:
        yield daemon


async def killed_at(yard: Yard, action: Action, call: int) -> bool:
    """Whether the process died before that changing call of the action; if not, it carried it out."""
    fuse = Fuse(call)
    async with mortal(yard, fuse) as daemon:
        try:
            await daemon.apply(action)
        except Killed:
            return True
    return False


def must_be_whole(yard: Yard, placement: Placement, action: Action) -> None:
    running = yard.running(placement.id)
    assert [own["Config"]["Image"] for own in running] == [str(placement.artifact)]
    made = [own for own in yard.workloads(placement.id) if own["Config"]["Labels"][render.KEY] == action.key]
    assert len(made) <= 1
    assert len(yard.holders(placement.id)) <= 2  # the higher is read; the other goes when the next is written


def where(yard: Yard, fixed: bool) -> dict[str, Any]:
    return {"ports": (Port(container=8080, host=yard.free_port()),)} if fixed else {}


@pytest.mark.parametrize("fixed", [False, True], ids=["beside", "in_place"])
async def test_a_deploy_is_finished_wherever_it_was_killed(daemon: Daemon, yard: Yard, fixed: bool) -> None:
    place = where(yard, fixed)
    here, there = (daemon.placement(app, **place) for app in (images.ONE, images.TWO))
    await daemon.deployed(here)
    for call in range(MOST):
        action = daemon.action(await daemon.change(there, here))
        died = await killed_at(yard, action, call)
        assert len(yard.holders()) <= 2
        if died and not fixed:
            assert yard.running(), "nothing served while it was being replaced"
        outcome = await daemon.apply(action)
        assert outcome.as_wanted, (call, outcome)
        must_be_whole(yard, there, action)
        worn = await daemon.worn()
        assert worn is not None
        assert (worn.phase, worn.key, worn.claim.content) == (Phase.PROVEN, action.key, there.content)
        standing = await daemon.standing()
        assert standing is not None
        assert all("-sticker-" in name for name in standing.debris), standing.debris
        assert standing.kept
        here, there = there, here
        if not died:
            assert call > 5
            return
    raise AssertionError(f"never carried out in {MOST} calls")


@pytest.mark.parametrize("fixed", [False, True], ids=["beside", "in_place"])
async def test_a_newer_action_finishes_what_an_older_one_left(daemon: Daemon, yard: Yard, fixed: bool) -> None:
    place = where(yard, fixed)
    here, older, newer = (daemon.placement(app, **place) for app in (images.ONE, images.TWO, images.THREE))
    await daemon.deployed(here)
    for call in range(MOST):
        died = await killed_at(yard, daemon.action(await daemon.change(older, here)), call)
        action = daemon.action(await daemon.change(newer, here))
        assert (await daemon.apply(action)).as_wanted
        must_be_whole(yard, newer, action)
        standing = await daemon.standing()
        assert standing is not None
        assert all("-sticker-" in name for name in standing.debris), standing.debris
        if not died:
            return
        here, older, newer = newer, here, older
    raise AssertionError(f"never carried out in {MOST} calls")


@pytest.mark.parametrize("fixed", [False, True], ids=["beside", "in_place"])
async def test_what_failed_is_undone_wherever_the_undoing_was_killed(daemon: Daemon, yard: Yard, fixed: bool) -> None:
    place = where(yard, fixed)
    one = await daemon.deployed(daemon.placement(images.ONE, **place))
    bad = replace(daemon.placement(images.BAD, **place), health=health(seconds=0.2))
    for call in range(MOST):
        action = daemon.action(await daemon.change(bad, one))
        died = await killed_at(yard, action, call)
        outcome = await daemon.apply(action)
        assert outcome.result is Result.REVERTED, (call, outcome)
        must_be_whole(yard, one, action)
        assert (await daemon.workload(one)).configuration == one.configuration_digest
        worn = await daemon.worn()
        assert worn is not None
        assert (worn.phase, worn.claim.content) == (Phase.PROVEN, one.content)
        if not died:
            return
    raise AssertionError(f"never carried out in {MOST} calls")


async def test_a_first_deploy_is_finished_wherever_it_was_killed(daemon: Daemon, yard: Yard) -> None:
    one = daemon.placement(images.ONE)
    for call in range(MOST):
        action = daemon.action(await daemon.change(one))
        died = await killed_at(yard, action, call)
        assert (await daemon.apply(action)).as_wanted
        must_be_whole(yard, one, action)
        await daemon.remove(one)
        if not died:
            return
    raise AssertionError(f"never carried out in {MOST} calls")


async def test_a_removal_is_finished_wherever_it_was_killed(daemon: Daemon, yard: Yard) -> None:
    for call in range(MOST):
        one = await daemon.deployed(daemon.placement(images.ONE))
        fuse = Fuse(call)
        async with mortal(yard, fuse) as doomed:
            with contextlib.suppress(Killed):
                await doomed.remove(one)
        await daemon.remove(one)
        assert yard.containers() == []
        if not fuse.blown:
            return
    raise AssertionError(f"never carried out in {MOST} calls")


async def test_an_answer_that_is_lost_is_looked_after(daemon: Daemon, yard: Yard) -> None:
    """Whichever changing call went through and did not say so: the outcome is unknown, and the same action finishes."""
    here, there = (daemon.placement(app) for app in (images.ONE, images.TWO))
    await daemon.deployed(here)
    for call in range(MOST):
        action = daemon.action(await daemon.change(there, here))
        fuse = Fuse(call, lost=True)
        async with mortal(yard, fuse) as doubtful:
            try:
                await doubtful.apply(action)
            except OutcomeUnknown:
                await doubtful.apply(action)
        must_be_whole(yard, there, action)
        here, there = there, here
        if not fuse.blown:
            return
    raise AssertionError(f"never carried out in {MOST} calls")
