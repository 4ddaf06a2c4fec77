"""A removal above the limit, confirmed on the page of the plan."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import httpx2
import pytest

from desired_state.model import DesiredState, Strategy, StrategyKind, Sync
from tests.api.pages.stand import PROD, Stand, stand
from tests.reconciler.rig import declared

SYNC = Sync(interval=timedelta(seconds=2), prune=True, removal_limit=30)


def prod(targets: int) -> DesiredState:
    made = declared("1.0.0", targets=targets, sync=SYNC, strategy=Strategy(kind=StrategyKind.ALL_AT_ONCE))
    return replace(made, placements=tuple(replace(one, health=None) for one in made.placements))


@pytest.fixture
def made() -> Iterator[Stand]:
    with stand(prod(4)) as running:
        running.until(lambda: runs(running) == 4, 20)
        running.rig.shelf.put(prod(2))
        running.until(lambda: "A large removal waits" in page(running), 20)
        yield running


def runs(made: Stand) -> int:
    return made.portal.call(made.rig.runs, "1.0.0")


def page(made: Stand) -> str:
    return httpx2.get(f"{made.address}/environments/{PROD}/plan").text


def sent(made: Stand, data: dict[str, str]) -> httpx2.Response:
    headers = {"origin": made.address, "sec-fetch-site": "same-origin"}
    return httpx2.post(f"{made.address}/environments/{PROD}/sync", data=data, headers=headers)


def test_exactly_the_removal_that_was_shown_is_confirmed(made: Stand) -> None:
    shown = page(made)
    form = shown[shown.index('id="removal"') :]
    assert "prod-2" in form
    assert "prod-3" in form
    fields = dict(re.findall(r'name="(plan_hash|confirm_removal)" value="([^"]+)"', form))
    other = sent(made, fields | {"confirm_removal": "0" * 12})
    assert (other.status_code, "MOVED" in other.text) == (409, True)
    unticked = sent(made, {"plan_hash": fields["plan_hash"]})
    assert unticked.status_code == 409
    assert runs(made) == 4
    assert sent(made, fields).status_code == 303
    made.until(lambda: runs(made) == 2)
