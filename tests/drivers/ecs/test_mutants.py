"""The tests of the ECS driver can fail: each of these breaks one thing, and what must find it does."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import anyio
import pytest

from drivers.conformance import Broken, checks
from drivers.contract import Deploy
from drivers.ecs import look, render, revisions, tags
from drivers.ecs.hands import EcsHands
from drivers.ecs.look import View
from stickers.names import Digest, PlacementId
from stickers.observation import Standing
from tests.drivers.ecs import test_driver as own
from tests.drivers.ecs.bench import EcsBench
from tests.drivers.ecs.fake import FakeEcs
from tests.drivers.ecs.stage import EcsStage
from tests.drivers.ecs.yard import Yard


@dataclass(frozen=True)
class Mutant:
    """What is put in the place of what, and who finds out."""

    of: object
    name: str
    broken: object
    clause: str

    def __str__(self) -> str:
        return f"{self.name} for {self.clause}"


async def nothing(*_: Any, **__: Any) -> None:
    return None


async def puts_nothing_back(self: EcsHands, deploy: Deploy, standing: Standing) -> str | None:
    view = await self.sight.view(self.place)
    return look.instance(view, "api", None)


def believes_the_label(container: render.Container) -> Digest | None:
    found = container.get("dockerLabels", {}).get(render.ARTIFACT)
    return Digest(found) if found else None


def forgets_what_stood(self: EcsHands, view: View, id: PlacementId) -> dict[str, str]:
    return {key: value for key, value in MARK(self, view, id).items() if not key.endswith(":kept")}


def takes_the_owner_as_it_comes(self: View) -> str | None:
    return None


async def never_forces(self: EcsHands, operation: str, **parameters: Any) -> Mapping[str, Any]:
    said = {"forceNewDeployment": False} if operation == "UpdateService" else {}
    return await CHANGE(self, operation, **parameters | said)


async def wants_one_alone(self: EcsHands, view: View) -> dict[str, render.Container]:
    wanted = await WANTED(self, view)
    return dict([next(iter(wanted.items()))])


async def starts_no_task(self: EcsHands, operation: str, **parameters: Any) -> Mapping[str, Any]:
    return await CHANGE(self, operation, **{key: value for key, value in parameters.items() if key != "desiredCount"})


def is_always_intact(described: Mapping[str, Any], said: Mapping[str, str]) -> revisions.Revision:
    return replace(REVISION(described, said), intact=True)


MARK, CHANGE, WANTED, REVISION = EcsHands._mark, EcsHands._change, EcsHands._wanted, revisions.revision

OF_THE_KIT = [
    Mutant(EcsHands, "put_back", puts_nothing_back, "a_failed_proof_puts_the_predecessor_back_beside"),
    Mutant(EcsHands, "_mark", forgets_what_stood, "a_replacement_leaves_one_workload"),
    Mutant(EcsHands, "settle", nothing, "as_many_predecessors_are_kept_as_was_said"),
    Mutant(EcsHands, "_change", never_forces, "a_restart_changes_no_content"),
    Mutant(EcsHands, "_change", starts_no_task, "what_was_stopped_is_brought_back"),
    Mutant(EcsHands, "_take_away", nothing, "a_removal_leaves_nothing"),
    Mutant(EcsHands, "_running", lambda *_: {}, "another_component_is_never_touched"),
    Mutant(EcsHands, "bare", nothing, "a_failed_first_deploy_leaves_nothing"),
    Mutant(look, "maker", lambda *_: None, "a_deploy_on_an_empty_target_runs_and_labels"),
    Mutant(tags, "worn", lambda *_: None, "no_sticker_and_an_unreadable_one_are_told_apart"),
]

OWN = [
    Mutant(EcsHands, "_is_begun", lambda *_: False, "a_lost_answer_is_an_unknown_outcome_and_nothing_is_begun_twice"),
    Mutant(look, "rollbacks", lambda *_: (), "what_the_breaker_takes_back_is_reverted_and_says_why"),
    Mutant(look, "is_rolling", lambda *_: False, "a_rollout_on_its_way_is_seen_as_starting"),
    Mutant(look, "_artifact", believes_the_label, "what_was_swapped_by_hand_is_seen_as_what_it_runs"),
    Mutant(revisions, "revision", is_always_intact, "a_copy_made_by_hand_is_not_believed"),
    Mutant(revisions.Revisions, "_of_content", nothing, "equal_content_is_registered_once"),
    Mutant(revisions, "SEARCHED", 1, "equal_content_is_found_on_a_later_page"),
    Mutant(View, "stranger", property(takes_the_owner_as_it_comes), "a_service_belongs_to_one_target"),
    Mutant(EcsHands, "_refuse_half_stopped", lambda *_: None, "one_container_of_a_task_cannot_be_stopped_alone"),
    Mutant(EcsHands, "_refuse_tags", lambda *_: None, "a_service_with_too_many_tags_is_refused_before_it_is_changed"),
    Mutant(EcsHands, "_wanted", wants_one_alone, "what_changes_together_is_one_rollout_and_is_all_marked_before_it"),
]


@pytest.mark.parametrize("mutant", OF_THE_KIT, ids=str)
async def test_the_kit_finds_it(mutant: Mutant, yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutant.of, mutant.name, mutant.broken)
    clause = next(one for one in checks() if one.name == mutant.clause)
    with pytest.raises(Broken):
        await clause.check(EcsBench(yard, {"rollout": 1}))


@pytest.mark.parametrize("mutant", OWN, ids=str)
async def test_our_own_tests_find_it(mutant: Mutant, ecs: FakeEcs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutant.of, mutant.name, mutant.broken)
    yard, test = Yard(ecs), getattr(own, f"test_{mutant.clause}")
    async with EcsStage(yard) as stage:
        given: dict[str, Any] = {"stage": stage, "yard": yard, "ecs": ecs, "monkeypatch": monkeypatch}
        with pytest.raises((Exception, pytest.fail.Exception)), anyio.fail_after(3):
            await test(**{name: given[name] for name in inspect.signature(test).parameters})
    ecs.failures.clear()
    ecs.dropped.clear()
