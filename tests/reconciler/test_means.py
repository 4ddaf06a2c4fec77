"""Where a turn computes what it computes over a large fleet."""

from __future__ import annotations

import threading
from pathlib import Path

from drivers.memory import World
from reconciler.means import LARGE
from reconciler.store.store import Store
from tests.harness import virtual_time
from tests.reconciler.rig import Shelf, around, declared, rig

anyio_backend = "asyncio"


async def test_over_many_placements_it_computes_beside_the_event_loop_and_over_few_on_it(tmp_path: Path) -> None:
    store = await Store.open(f"sqlite:///{tmp_path / 'store'}")
    async with around(World(now=virtual_time.now), store, Shelf(declared("1.0.0")), running=False) as made:
        means, here = made.reconciler._means, threading.get_ident()
        assert await means.aside(LARGE, threading.get_ident) != here
        assert await means.aside(LARGE - 1, threading.get_ident) == here
    await store.aclose()


async def test_where_everything_is_done_on_one_thread_so_is_this() -> None:
    async with rig(declared("1.0.0"), running=False) as made:
        assert await made.reconciler._means.aside(LARGE, threading.get_ident) == threading.get_ident()
