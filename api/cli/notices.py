"""`holdfast notices test`: one message through each channel, and who heard it."""

from __future__ import annotations

from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from api.cli import show
from api.notices import channels, declared
from api.notices.channels import NotHeard
from api.problem import FAILED, OK, Problem
from api.settings import Settings
from drivers.secrets.resolver import Resolver
from reconciler.store.notices import Due, Notice
from stickers.names import EnvironmentId
from stickers.redaction import Redactor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from api.notices.declared import Channel

NOWHERE: Final = EnvironmentId("holdfast/test")


def test(settings: Settings, given: Namespace) -> int:
    if not settings.notices:
        raise Problem("BAD_SETTING", "nobody is told anything: HOLDFAST_NOTICES names no file")
    said = _chosen(declared.read(Path(settings.notices)).channels, given.channel)
    reasons = anyio.run(_told, said, settings.public_url)
    if given.output == "json":
        rows = [{"channel": name, "heard": reason is None, "reason": reason} for name, reason in reasons.items()]
        show.as_json({"channels": rows})
    else:
        for name, reason in reasons.items():
            print(f"{name}: heard" if reason is None else f"{name}: not heard: {show.clean(reason)}")
    return FAILED if any(reasons.values()) else OK


def _chosen(said: Sequence[Channel], name: str | None) -> Sequence[Channel]:
    chosen = [channel for channel in said if name in (None, channel.name)]
    if not chosen:
        known = ", ".join(channel.name for channel in said) or "none"
        raise Problem("NO_CHANNEL", f"there is no channel {name or 'at all'}; declared are {known}")
    return chosen


async def _told(said: Sequence[Channel], public_url: str) -> Mapping[str, str | None]:
    """Why each did not hear it; None where it did."""
    reasons: dict[str, str | None] = {channel.name: None for channel in said}
    redactor = Redactor()
    secret = Resolver(redactor)

    async def tell(channel: Channel) -> None:
        now = datetime.now(UTC)
        try:
            await channels.tell(channel, _due(channel, now), secret=secret, now=now, link=public_url)
        except NotHeard as reason:
            reasons[channel.name] = redactor.clean(str(reason))

    try:
        async with anyio.create_task_group() as group:
            for channel in said:
                group.start_soon(tell, channel)
    finally:
        await secret.aclose()
    return reasons


def _due(channel: Channel, now: datetime) -> Due:
    message = "a test: whoever reads this will be told of drift, failures and rollbacks"
    notice = Notice(environment=NOWHERE, kind="test", subject="", message=message)
    return Due(number=0, channel=channel.name, notice=notice, opened_at=now, closed_at=None, failures=0)
