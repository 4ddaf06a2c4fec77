"""Transactions: whole or not at all, one writer, readers that only read, one process, and an end that loses nothing."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import anyio
import psycopg
import pytest
from sqlalchemy import URL, Connection, event, insert, select, text
from sqlalchemy.exc import OperationalError, StatementError

from reconciler.store import engines, environments, installations, jobs
from reconciler.store.errors import CommitUnknown, Corrupt, Locked, Unavailable, Violated
from reconciler.store.patience import Patience
from reconciler.store.store import Store
from reconciler.store.tables import content
from tests.harness.postgres import NoPostgres, Postgres, running_postgres
from tests.reconciler.core.builders import NOW, PROD, fleet
from tests.reconciler.store.builders import settled, working


def _keep(c: Connection, name: str) -> None:
    c.execute(insert(content).values(digest=name, kind="target", body="{}", kept_at=NOW))


def _kept(c: Connection) -> list[str]:
    return list(c.execute(select(content.c.digest).order_by(content.c.digest)).scalars())


async def test_what_was_written_is_read(store: Store) -> None:
    await store.write(lambda c: _keep(c, "a"))
    assert await store.read(_kept) == ["a"]


async def test_a_write_answers_what_its_query_answers(store: Store) -> None:
    assert await store.write(lambda c: c.execute(text("select 7")).scalar()) == 7


async def test_a_query_that_raises_leaves_nothing(store: Store) -> None:
    def fails(c: Connection) -> None:
        _keep(c, "a")
        raise RuntimeError("changed its mind")

    with pytest.raises(RuntimeError, match="changed its mind"):
        await store.write(fails)
    assert await store.read(_kept) == []


async def test_a_reader_cannot_write(store: Store) -> None:
    with pytest.raises(Exception, match=r"read-?only"):
        await store.read(lambda c: _keep(c, "a"))
    assert await store.read(_kept) == []


async def test_a_store_in_memory_cannot_be_written_by_reading_either() -> None:
    store = await Store.open("sqlite://")
    with pytest.raises(Unavailable, match="readonly"):
        await store.read(lambda c: _keep(c, "a"))
    await store.write(lambda c: _keep(c, "b"))  # and is written as before
    assert await store.read(_kept) == ["b"]
    await store.aclose()


async def test_a_read_sees_one_moment(store: Store) -> None:
    began, written = threading.Event(), threading.Event()

    def twice(c: Connection) -> tuple[list[str], list[str]]:
        before = _kept(c)
        began.set()
        assert written.wait(10)
        return before, _kept(c)

    async def write() -> None:
        await anyio.to_thread.run_sync(began.wait, 10)
        await store.write(lambda c: _keep(c, "a"))
        written.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        assert await store.read(twice) == ([], [])


async def test_many_writers_at_once_all_write(store: Store) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(40):
            tasks.start_soon(store.write, lambda c, number=number: _keep(c, f"{number:02}"))
    assert len(await store.read(_kept)) == 40


async def test_what_the_schema_forbids_is_violated_and_says_no_values(store: Store) -> None:
    await store.write(lambda c: _keep(c, "a"))
    with pytest.raises(Violated) as caught:
        await store.write(lambda c: _keep(c, "a"))
    assert "content" in str(caught.value)
    assert "{}" not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_time_without_a_zone_is_refused(store: Store) -> None:
    naive = datetime(2026, 1, 1)
    with pytest.raises(StatementError, match="without a zone"):
        await store.write(lambda c: c.execute(insert(content).values(digest="a", kind="x", body="{}", kept_at=naive)))


async def test_times_come_back_aware_and_in_utc(store: Store) -> None:
    await store.write(lambda c: _keep(c, "a"))
    found = await store.read(lambda c: c.execute(select(content.c.kept_at)).scalar_one())
    assert found == NOW
    assert found.tzinfo is UTC


async def test_a_cancelled_wait_writes_nothing(store: Store) -> None:
    busy, go_on = threading.Event(), threading.Event()

    def slow(c: Connection) -> None:
        busy.set()
        assert go_on.wait(10)
        _keep(c, "slow")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.write, slow)
        await anyio.to_thread.run_sync(busy.wait, 10)
        with anyio.move_on_after(0.05) as waiting:
            await store.write(lambda c: _keep(c, "waited"))
        assert waiting.cancelled_caught
        go_on.set()
    assert await store.read(_kept) == ["slow"]


async def test_a_write_that_has_begun_is_waited_for_although_cancelled(store: Store) -> None:
    busy, go_on = threading.Event(), threading.Event()

    def slow(c: Connection) -> None:
        busy.set()
        assert go_on.wait(10)
        _keep(c, "slow")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.write, slow)
        await anyio.to_thread.run_sync(busy.wait, 10)
        tasks.cancel_scope.cancel()
        go_on.set()
    assert await store.read(_kept) == ["slow"]


async def test_closing_finishes_what_was_taken_and_takes_nothing_new(address: str) -> None:
    store = await Store.open(address)
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(store.write, lambda c, number=number: _keep(c, f"{number:02}"))
        await anyio.lowlevel.checkpoint()
        tasks.start_soon(store.aclose)
        await anyio.lowlevel.checkpoint()
        with pytest.raises(Unavailable, match="closed"), anyio.fail_after(10):
            await store.write(lambda c: _keep(c, "late"))
    with pytest.raises(Unavailable, match="closed"), anyio.fail_after(10):
        await store.read(_kept)
    again = await Store.open(address)
    assert len(await again.read(_kept)) == 20
    await again.aclose()


async def test_closing_twice_is_closing_once(store: Store) -> None:
    await store.aclose()
    await store.aclose()


async def test_inline_transactions_run_on_the_caller_s_thread(tmp_path: Path) -> None:
    store = await Store.open(f"sqlite:///{tmp_path / 'holdfast.db'}", inline=True)
    assert await store.write(lambda c: threading.get_ident()) == threading.get_ident()
    assert await store.read(lambda c: threading.get_ident()) == threading.get_ident()
    await store.aclose()


async def test_an_inline_transaction_can_be_cancelled_before_it_begins() -> None:
    store = await Store.open("sqlite://")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await store.write(lambda c: _keep(c, "a"))
    assert await store.read(_kept) == []
    await store.aclose()


# -- the embedded store ------------------------------------------------------------------------------------------------


async def test_a_second_holder_is_told_who_the_first_is(sqlite: str) -> None:
    store = await Store.open(sqlite)
    with pytest.raises(Locked, match=rf"^the store .*holdfast\.db is held by process {os.getpid()}: "):
        await Store.open(sqlite)
    await store.aclose()
    await (await Store.open(sqlite)).aclose()


async def test_another_process_is_refused_too_and_let_in_when_the_first_is_killed(sqlite: str) -> None:
    child = _child(sqlite, "import time; print('open', flush=True); time.sleep(60)")
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        with pytest.raises(Locked, match=f"held by process {child.pid}"):
            await Store.open(sqlite)
    finally:
        child.kill()
        child.communicate()
    await (await Store.open(sqlite)).aclose()


async def test_a_path_may_hold_any_character(tmp_path: Path) -> None:
    odd = tmp_path / "50% of #all? ü"
    store = await Store.open(URL.create("sqlite", database=str(odd / "hold fast.db")).render_as_string())
    await store.write(lambda c: _keep(c, "a"))
    assert await store.read(_kept) == ["a"]
    assert (odd / "hold fast.db").exists()
    await store.aclose()


async def test_only_the_owner_may_read_the_files(tmp_path: Path) -> None:
    store = await Store.open(f"sqlite:///{tmp_path / 'state' / 'holdfast.db'}")
    await store.write(lambda c: _keep(c, "a"))
    files = list((tmp_path / "state").iterdir())
    assert {file.suffix for file in files} >= {".db", ".lock", ".db-wal"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    await store.aclose()


async def test_a_killed_writer_leaves_whole_transactions_and_a_sound_file(sqlite: str) -> None:
    """Two rows per transaction; killed in the middle of the stream, there is an even number of them."""
    writing = """
        number = 0
        while True:
            def pair(c, number=number):
                for half in "ab":
                    c.execute(insert(content).values(digest=f"{number}{half}", kind="x", body="{}" * 500, kept_at=NOW))
            await store.write(pair)
            number += 1
            print(number, flush=True)
    """
    child = _child(sqlite, writing)
    assert child.stdout is not None
    told = 0
    while told < 200:
        told = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    rest, _ = child.communicate()
    told = int((rest.split() or [told])[-1])
    store = await Store.open(sqlite)
    rows = await store.read(_kept)
    assert len(rows) % 2 == 0
    assert len(rows) // 2 >= told  # what was answered is there
    assert await store.read(lambda c: c.exec_driver_sql("pragma integrity_check").scalar()) == "ok"
    await store.aclose()


async def test_a_full_disk_refuses_the_write_and_nothing_else(sqlite: str) -> None:
    store = await Store.open(sqlite)
    await store.write(lambda c: _keep(c, "a"))
    pages = await store.read(lambda c: c.exec_driver_sql("pragma page_count").scalar_one())
    await store.write(lambda c: c.exec_driver_sql(f"pragma max_page_count={pages}"))
    with pytest.raises(Unavailable, match="full"):
        await store.write(lambda c: [_keep(c, "x" * 5000 + str(number)) for number in range(20)])
    assert await store.read(_kept) == ["a"]
    await store.write(lambda c: c.exec_driver_sql("pragma max_page_count=1000000"))
    await store.write(lambda c: _keep(c, "b"))
    assert await store.read(_kept) == ["a", "b"]
    await store.aclose()


async def test_a_file_that_is_no_database_is_called_corrupt(tmp_path: Path) -> None:
    (tmp_path / "holdfast.db").write_bytes(b"surely not a database" * 100)
    with pytest.raises(Corrupt, match="not a database"):
        await Store.open(f"sqlite:///{tmp_path / 'holdfast.db'}")


def test_readers_neither_write_nor_checkpoint(sqlite: str) -> None:
    readers = engines.readers(sqlite)
    with readers.connect() as c:
        assert c.exec_driver_sql("pragma query_only").scalar() == 1
        assert c.exec_driver_sql("pragma wal_autocheckpoint").scalar() == 0
        with pytest.raises(OperationalError, match="readonly"):
            _keep(c, "a")
    readers.dispose()


def test_the_writer_keeps_foreign_keys_and_a_write_ahead_log(sqlite: str) -> None:
    writer = engines.writer(sqlite)
    with writer.connect() as c:
        found = {name: c.exec_driver_sql(f"pragma {name}").scalar() for name in ("foreign_keys", "journal_mode")}
        assert found == {"foreign_keys": 1, "journal_mode": "wal"}
        assert c.exec_driver_sql("pragma synchronous").scalar() == 1  # normal
    writer.dispose()


def _child(address: str, body: str) -> subprocess.Popen[str]:
    """Another process with the store open, running the body."""
    lines = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
    program = f"""
import anyio, structlog
from sqlalchemy import insert
from reconciler.store.store import Store
from reconciler.store.tables import content
from tests.reconciler.core.builders import NOW

async def main():
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    store = await Store.open({address!r})
{lines}

anyio.run(main)
"""
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


def _cut(address: str) -> None:
    """Every connection to the database is lost, as a restart of the server or of the network between would do."""
    with psycopg.connect(address, autocommit=True) as c:
        c.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )


async def test_a_database_without_an_encoding_of_its_own_is_spoken_to_in_utf_8(postgresql: str) -> None:
    name = f"holdfast_ascii_{uuid4().hex[:8]}"
    with psycopg.connect(postgresql.replace("+psycopg", ""), autocommit=True) as c:
        c.execute(
            f"create database {name} encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C' template template0".encode()
        )
        try:
            store = await Store.open(re.sub(r"/holdfast_\w+", f"/{name}", postgresql))
            assert await store.read(lambda c: c.execute(text("select :said"), {"said": "größer"}).scalar()) == "größer"
            await store.aclose()
        finally:
            c.execute(f"drop database {name} with (force)".encode())


async def test_a_lost_connection_is_made_again_for_the_next_transaction(postgresql: str) -> None:
    store = await Store.open(postgresql)
    await store.write(lambda c: _keep(c, "a"))
    await store.read(_kept)
    _cut(postgresql)
    await store.write(lambda c: _keep(c, "b"))
    _cut(postgresql)
    assert await store.read(_kept) == ["a", "b"]
    await store.aclose()


async def test_a_connection_lost_in_the_middle_costs_a_second_try_and_writes_once(postgresql: str) -> None:
    store = await Store.open(postgresql)
    tries = iter((True, False))

    def cut_once(c: Connection) -> None:
        _keep(c, "a")
        if next(tries):
            _cut(postgresql)
        _keep(c, "b")

    await store.write(cut_once)
    assert await store.read(_kept) == ["a", "b"]
    await store.aclose()


async def test_a_connection_lost_in_every_try_is_unavailable(postgresql: str) -> None:
    store = await Store.open(postgresql)

    def always(c: Connection) -> None:
        _keep(c, "a")
        _cut(postgresql)
        _keep(c, "b")

    with pytest.raises(Unavailable, match="the database was lost"):
        await store.write(always)
    assert await store.read(_kept) == []
    await store.aclose()


async def test_a_connection_lost_while_committing_is_not_tried_again(postgresql: str) -> None:
    store = await Store.open(postgresql)
    tries: list[str] = []

    def once(c: Connection) -> None:
        tries.append("tried")
        _keep(c, "a")

    @event.listens_for(store._writer, "commit")
    def cut(_: Connection) -> None:
        _cut(postgresql)

    with pytest.raises(CommitUnknown, match="not known whether it was written"):
        await store.write(once)
    assert tries == ["tried"]
    event.remove(store._writer, "commit", cut)
    await store.write(lambda c: _keep(c, "b"))
    await store.aclose()


def test_statements_and_locks_have_their_time_on_postgresql(postgresql: str) -> None:
    patience = Patience(20)
    for engine in (engines.writer(postgresql, patience), engines.readers(postgresql, patience)):
        with engine.connect() as c:
            limits = [c.execute(text(f"show {name}")).scalar() for name in ("statement_timeout", "lock_timeout")]
        with engine.connect() as c:
            c.connection.driver_connection.execute("rollback")  # type: ignore[union-attr]
            kept = c.connection.driver_connection.execute("show statement_timeout").fetchone()  # type: ignore[union-attr]
        engine.dispose()
        assert limits == ["18s", "10s"]
        assert kept == ("0",)  # nothing of it outlives the transaction
    patience.close()


@pytest.fixture
def own_server() -> Iterator[Postgres]:
    try:
        with running_postgres() as server:
            yield server
    except NoPostgres as reason:
        pytest.skip(str(reason))


async def test_a_store_outlives_a_restart_of_its_server(own_server: Postgres) -> None:
    store = await Store.open(str(own_server))
    await store.write(lambda c: _keep(c, "a"))
    own_server.stop()
    with pytest.raises(Unavailable):
        await store.write(lambda c: _keep(c, "b"))
    with pytest.raises(Unavailable):
        await Store.open(str(own_server))
    own_server.start()
    await store.write(lambda c: _keep(c, "c"))
    assert await store.read(_kept) == ["a", "c"]
    await store.aclose()


# -- the installation --------------------------------------------------------------------------------------------------


async def test_the_first_installation_id_stays(store: Store) -> None:
    assert await store.read(installations.load) is None
    first = await store.write(lambda c: installations.settle(c, "first", NOW))  # type: ignore[arg-type]
    second = await store.write(lambda c: installations.settle(c, "second", NOW))  # type: ignore[arg-type]
    assert (first, second, await store.read(installations.load)) == ("first", "first", "first")


async def test_a_store_in_a_file_keeps_everything_over_a_restart(address: str) -> None:
    desired = fleet(2)
    store = await Store.open(address)
    lease = await settled(store, desired)
    job = await working(store, lease, desired)
    await store.aclose()
    again = await Store.open(address)
    assert await again.read(lambda c: environments.desired(c, PROD)) == desired
    assert await again.read(lambda c: jobs.active(c, PROD)) == job
    await again.aclose()
