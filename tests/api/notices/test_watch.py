"""Each trouble is told once over each channel, over when it is over, and tried again where nobody heard it."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from api.notices.declared import Notices
from api.notices.watch import Watch
from desired_state.secrets import SecretRef
from reconciler.core.judge import Drift, Verdict
from reconciler.core.known import Trust
from reconciler.store import agents, history
from reconciler.store.records import Lease
from reconciler.store.store import Store
from stickers.names import AgentName, PlacementId
from tests.api.notices import receivers
from tests.api.notices.receivers import Heard
from tests.reconciler.core.builders import NOW, PROD, fleet
from tests.reconciler.store.builders import invited, judged, settled

CANARY = "s3cr3t-of-the-hook"


class Scene:
    def __init__(self, store: Store, lease: Lease, heard: Heard) -> None:
        self.store, self.lease, self.heard, self.now = store, lease, heard, NOW
        channel = {"name": "ops", "webhook": {"url": f"http://127.0.0.1:{heard.port}/", "secret": {"secret": "env:X"}}}
        self.watch = self.watching([channel])

    def watching(self, channels: list[dict[str, Any]]) -> Watch:
        said = Notices.model_validate({"apiVersion": "holdfast/v1", "kind": "Notices", "channels": channels})
        return Watch(said, self.store, self.secret, lambda: self.now, public_url="https://holdfast.example/")

    async def secret(self, reference: SecretRef) -> str:
        return CANARY

    async def stands(self, **changes: Any) -> None:
        drifts: list[Drift] = [judged(each, **changes) for each in fleet(3).placements]
        await self.store.write(lambda c: history.standings(c, PROD, drifts, (), self.lease, self.now))

    async def is_gone(self, ids: list[PlacementId]) -> None:
        await self.store.write(lambda c: history.standings(c, PROD, (), ids, self.lease, self.now))

    async def later(self, **span: float) -> list[dict[str, Any]]:
        """After a pass so much later: what was heard in it."""
        self.now += timedelta(**span)
        before = len(self.heard.requests)
        await self.watch.once()
        return [json.loads(body) for _, body in self.heard.requests[before:]]


@pytest.fixture
async def scene(store: Store) -> AsyncIterator[Scene]:
    async with receivers.http() as heard:
        yield Scene(store, await settled(store), heard)


async def test_drift_that_lasts_is_told_once_and_told_to_be_over(scene: Scene) -> None:
    await scene.stands(verdict=Verdict.MISSING)
    assert await scene.later(seconds=30) == []
    [told] = await scene.later(seconds=40)
    assert (told["kind"], told["state"], told["environment"]) == ("drift", "open", PROD)
    assert told["message"].startswith("3 missing, such as default/")
    assert told["link"] == f"https://holdfast.example/environments/{PROD}"
    assert await scene.later(hours=1) == []
    await scene.stands(verdict=Verdict.IN_SYNC)
    [over] = await scene.later(seconds=1)
    assert (over["id"], over["state"]) == (told["id"], "over")
    assert await scene.later(hours=1) == []


async def test_all_targets_unreachable_are_one_notice(scene: Scene) -> None:
    await scene.stands(verdict=Verdict.UNKNOWN)
    assert await scene.later(minutes=9) == []
    [told] = await scene.later(minutes=2)
    assert (told["kind"], told["message"].split(",")[0]) == ("unknown", "3 unknown")


async def test_a_forged_sticker_is_told_at_once(scene: Scene) -> None:
    await scene.stands(verdict=Verdict.IN_SYNC, trust=Trust.FORGED)
    [told] = await scene.later(seconds=1)
    assert told["kind"] == "distrust"
    assert "forged" in told["message"]


async def test_an_agent_that_is_locked_is_told_where_its_targets_are_and_over_when_it_is_not(scene: Scene) -> None:
    name, target = AgentName("web-1"), fleet(3).targets[0].id
    await scene.stands(verdict=Verdict.IN_SYNC)
    await scene.store.write(lambda c: agents.invite(c, invited(name), [target], ["docker"]))
    await scene.store.write(lambda c: agents.lock(c, name, "its identity was copied", "ann", scene.now))
    [told] = await scene.later(seconds=1)
    assert (told["kind"], told["environment"]) == ("locked", PROD)
    assert told["message"] == "agent web-1 is locked: its identity was copied"
    await scene.store.write(lambda c: agents.unlock(c, name, "ann", scene.now))
    [over] = await scene.later(seconds=1)
    assert (over["id"], over["state"]) == (told["id"], "over")


async def test_a_webhook_is_signed_over_time_and_body(scene: Scene) -> None:
    await scene.stands(verdict=Verdict.MISSING)
    await scene.later(minutes=2)
    headers, body = scene.heard.requests[0]
    signed = hmac.new(CANARY.encode(), f"{headers['holdfast-time']}.".encode() + body, hashlib.sha256).hexdigest()
    assert headers["holdfast-signature"] == f"sha256={signed}"
    assert datetime.fromisoformat(headers["holdfast-time"]) == scene.now
    assert CANARY.encode() not in body


async def test_what_was_not_heard_is_told_again_later_under_the_same_delivery(scene: Scene) -> None:
    scene.heard.status = 503
    await scene.stands(verdict=Verdict.MISSING)
    await scene.later(minutes=2)
    assert await scene.later(seconds=1) == []
    scene.heard.status = 200
    [told] = await scene.later(minutes=5)
    assert told["state"] == "open"
    assert scene.heard.requests[0][0]["holdfast-delivery"] == scene.heard.requests[1][0]["holdfast-delivery"]
    assert await scene.later(hours=2) == []


async def test_two_replicas_tell_once(scene: Scene) -> None:
    await scene.stands(verdict=Verdict.MISSING)
    other = scene.watch
    scene.watch = Scene(scene.store, scene.lease, scene.heard).watch
    scene.now += timedelta(minutes=2)
    other_now = Scene(scene.store, scene.lease, scene.heard)
    other_now.now = scene.now
    await other.once()
    await other_now.watch.once()
    assert len(scene.heard.requests) == 1


async def test_mail_and_slack_say_the_same_without_markup(scene: Scene) -> None:
    async with receivers.mail() as post:
        scene.watch = scene.watching([
            {"name": "chat", "slack": {"url": {"secret": "env:SLACK"}}},
            {
                "name": "post",
                "mail": {
                    "host": "127.0.0.1",
                    "port": post.port,
                    "security": "none",
                    "from": "h@example.org",
                    "to": ["o@example.org"],
                },
            },
        ])  # fmt: skip

        async def address(reference: SecretRef) -> str:
            return f"http://127.0.0.1:{scene.heard.port}/services/T/B"

        scene.watch._secret = address
        await scene.stands(verdict=Verdict.MISSING)
        [slack] = await scene.later(minutes=2)
        assert slack["text"].startswith(f"{PROD} drift: 3 missing")
        assert slack["text"].endswith(f"<https://holdfast.example/environments/{PROD}|look>")
        [letter] = post.letters
        assert f"Subject: {PROD} drift: 3 missing" in letter
        assert f"https://holdfast.example/environments/{PROD}" in letter
