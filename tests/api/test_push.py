"""From a push to an action on a target, through the webhook, long before the source would be read by itself."""

from __future__ import annotations

import time
from pathlib import Path

from tests.harness import apps
from tests.harness.pushed import is_action, pushed


async def test_a_push_is_brought_by_its_webhook(tmp_path: Path) -> None:
    async with pushed(tmp_path, poll="1h") as made:
        image = apps.pack(tmp_path / "images", "1.1.0")
        began = time.perf_counter()
        made.work.commit(made.documents("1.1.0", image))
        assert await made.call() == 202
        await made.first(is_action, began)
        await made.serves("1.1.0")
