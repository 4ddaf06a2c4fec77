"""What the fleet says of an environment that nobody looks at any more, or that waits for a person."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from api.pages.fleet import foremost, is_overdue
from api.pages.templating import templates
from reconciler.core.conditions import Condition, ConditionType, Status
from reconciler.store.overview import Looked

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def condition(type: ConditionType, status: Status, reason: str = "Why") -> Condition:
    return Condition(type=type, status=status, reason=reason, message="a sentence", generation=1)


@pytest.mark.parametrize(
    ("looked", "again", "overdue"),
    [(10, 0, False), (600, None, True), (600, -1, False), (600, 59, False), (600, 61, True), (30, None, False)],
)
def test_an_environment_is_overdue_a_minute_after_it_should_have_been_looked_at(
    looked: int, again: int | None, overdue: bool
) -> None:
    due = None if again is None else NOON - timedelta(seconds=again)
    assert is_overdue(Looked(at=NOON - timedelta(seconds=looked), again=due), NOON) is overdue


def test_what_was_never_looked_at_is_not_overdue_but_unknown() -> None:
    assert is_overdue(None, NOON) is False


def test_what_waits_for_a_person_is_said_before_everything_else() -> None:
    stalled = condition(ConditionType.STALLED, Status.TRUE)
    ready, moving = condition(ConditionType.READY, Status.FALSE), condition(ConditionType.RECONCILING, Status.TRUE)
    assert foremost((ready, moving, stalled)) is stalled
    assert foremost((ready, moving)) is moving
    assert foremost((ready, condition(ConditionType.RECONCILING, Status.FALSE, "Idle"))) is ready
    assert foremost(()) is None


def test_every_template_can_be_read() -> None:
    made = templates()
    for name in made.list_templates():
        made.get_template(name)
