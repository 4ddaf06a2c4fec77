"""Records put together from shared parts say what they said, and hold what is equal once."""

from __future__ import annotations

from desired_state.model import DesiredState
from drivers.contract import Deploy
from reconciler.core.intent import Intent
from reconciler.store import contents, sharing
from stickers.names import Digest
from tests.reconciler.core.builders import fleet
from tests.reconciler.store.builders import plan_of


def _decoded(desired: DesiredState) -> DesiredState:
    return contents._adapter(DesiredState).validate_json(contents.dump(DesiredState, desired))  # type: ignore[no-any-return]


def test_what_is_shared_says_the_same() -> None:
    desired = fleet(3)
    assert sharing.of_desired(_decoded(desired)) == desired
    assert sharing.of_desired(_decoded(desired)).digest == desired.digest


def test_equal_parts_of_placements_are_one_object() -> None:
    first, second = sharing.of_desired(_decoded(fleet(2))).placements
    assert first.configuration is second.configuration
    assert first.artifact is second.artifact
    assert first.health is second.health
    assert first.release is second.release


def test_a_target_is_named_by_one_text_wherever_it_is() -> None:
    desired, again = (sharing.of_desired(_decoded(fleet(2))) for _ in range(2))
    assert desired.targets[1].id is desired.placements[1].id.target is again.targets[1].id


def test_intents_share_what_they_bring() -> None:
    intents = plan_of(fleet(2)).intents
    first, second = (contents.read(Intent, contents.dump(Intent, each)) for each in intents)
    assert (first, second) == intents
    assert isinstance(first.changes[0], Deploy)
    assert isinstance(second.changes[0], Deploy)
    assert first.changes[0].placement.configuration is second.changes[0].placement.configuration


def test_parts_are_not_held_without_bound() -> None:
    for number in range(sharing.PARTS + 1):
        sharing._one(Digest(f"part {number}"))
    assert len(sharing._parts) <= sharing.PARTS
