"""From `git push` to the first action on a target: a real repository over git's own HTTP, the webhook that its forge
would send, a real store, processes of this machine as targets.

    python -m tests.benchmarks.bench_push
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

import anyio

from tests.benchmarks.table import Row, show
from tests.harness import apps
from tests.harness.pushed import Pushed, is_action, is_read, pushed

ROUNDS: Final = 9
TARGETS: Final = 3


async def measure() -> None:
    with tempfile.TemporaryDirectory(prefix="hf-push-") as place:
        home = Path(place)
        async with pushed(home, targets=TARGETS) as made:
            found = [await _round(made, f"1.{number}.0") for number in range(1, ROUNDS + 1)]
    pushes, taken, acted, served = ([each[at] for each in found] for at in range(4))
    show(
        f"From git push to the first action, {TARGETS} process targets, webhook, {ROUNDS} pushes",
        [
            Row(work="git push itself", ours=median(pushes), peer=None),
            Row(work="from the beginning of the push to the new state accepted", ours=median(taken)),
            Row(work="from the beginning of the push to the first action", ours=median(acted), limit="< 2 s"),
            Row(work="the slowest of these", ours=max(acted)),
            Row(work="from the beginning of the push to every target serving it", ours=median(served)),
        ],
    )


async def _round(made: Pushed, version: str) -> tuple[float, float, float, float]:
    image = apps.pack(made.home / "images", version)
    made.work.commit(made.documents(version, image), push=False)
    await anyio.sleep(0.5)
    began = time.perf_counter()
    await anyio.to_thread.run_sync(made.work.push)
    after_push = time.perf_counter() - began
    assert await made.call() == 202
    acted = await made.first(is_action, began)
    taken = await made.first(is_read, began)
    await made.serves(version)
    return after_push, taken, acted, time.perf_counter() - began


if __name__ == "__main__":
    anyio.run(measure, backend_options={"use_uvloop": True})
