"""The database goes away in every way it can: nothing is begun without a lease, and all goes on when it is back."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import anyio
import psycopg
import pytest
from anyio import to_thread

from drivers.memory import Deed, Fault, Trouble
from reconciler.events import LeaseLost, LeaseTaken, RoundFailed, TurnFailed
from reconciler.store import jobs, listening
from reconciler.store.errors import Unavailable
from reconciler.store.store import Store
from tests.harness import postgres
from tests.harness.link import link
from tests.harness.lossy import NoNamespace, lossy
from tests.reconciler.rig import PROD, Rig
from tests.replicas.crew import Crew, declared, shares, until

TARGETS = 4


def made_of(crew: Crew, version: str) -> list[str]:
    """What was ever put on a target with that version, by target: twice is once too often."""
    wanted = {str(placement.artifact.digest) for placement in declared(version, targets=TARGETS).placements}
    made = [effect for effect in crew.world.effects if effect.deed is Deed.MADE and effect.artifact is not None]
    return [str(effect.target) for effect in made if str(effect.artifact) in wanted]


async def test_one_that_is_cut_from_the_database_stops_in_time_and_another_finishes(postgresql: str) -> None:
    with link(postgresql) as line:
        made = Crew.of(postgresql, declared("1.0.0", targets=TARGETS))
        async with made.replica("a", address=line.address) as cut:
            await until("the first release", lambda: cut.runs("1.0.0") == TARGETS)
            async with made.replica("b") as b:
                made.world.host(declared("2.0.0").targets[1].id).faults.append(
                    Fault(trouble=Trouble.SLOW, step="prepare", seconds=2)
                )
                made.shelf.put(declared("2.0.0", targets=TARGETS))
                await until("the middle of it", lambda: 1 <= cut.runs("2.0.0") < TARGETS)
                holder = cut if PROD in cut.reconciler.held else b
                assert holder is cut
                line.swallow()
                await until("the end of its lease", lambda: PROD not in cut.reconciler.held, within=20)
                await until("its word", lambda: any(isinstance(event, LeaseLost) for event in cut.events))
                await until("the rest", lambda: b.runs("2.0.0") == TARGETS)
                await until("its end", lambda: _ended(b))
                assert sorted(made_of(made, "2.0.0")) == sorted(set(made_of(made, "2.0.0")))
                line.heal()
                await until("its return", lambda: cut.reconciler.live and len(cut.reconciler.live) == 2)


async def _ended(made: Rig) -> bool:
    job = await made.job()
    return job is not None and job.ended_at is not None


async def test_a_line_that_loses_three_packets_of_ten_doubles_nothing_and_holds_up_nobody(
    postgresql: str, tmp_path: Path
) -> None:
    share = 0.3
    try:
        with lossy(postgresql, tmp_path / "line") as line:
            made = Crew.of(postgresql, declared("1.0.0", targets=TARGETS))
            async with made.replica("a", address=line.address) as a:
                await until("the first release", lambda: _ended(a))
                await to_thread.run_sync(line.lose, share)
                async with made.replica("b") as b:
                    made.shelf.put(declared("2.0.0", targets=TARGETS))
                    await until("the next release", lambda: b.runs("2.0.0") == TARGETS)
                    await until("its end", lambda: _ended(b))
                    assert sorted(made_of(made, "2.0.0")) == sorted(set(made_of(made, "2.0.0")))
                    assert await to_thread.run_sync(line.heal, share) > 0
                    await until("its return", lambda: len(a.reconciler.live) == len(b.reconciler.live) == 2)
                    assert [job.state for job in await b.jobs()] == ["completed", "completed"]
    except NoNamespace as reason:
        pytest.skip(f"no network namespace here: {reason}")


async def test_answers_lost_after_the_commit_leave_one_of_everything(postgresql: str) -> None:
    with link(postgresql) as line:
        made = Crew.of(postgresql, declared("1.0.0", targets=TARGETS))
        made.ttl = timedelta(seconds=10)
        async with made.replica("a", address=line.address, direct=postgresql) as a, anyio.create_task_group() as group:
            await until("a holder", lambda: shares([a]) == [1])

            async def rob() -> None:
                for _ in range(25):
                    line.rob(1)
                    await anyio.sleep(0.1)

            group.start_soon(rob)
            await until("the deployment", lambda: a.runs("1.0.0") == TARGETS)
            group.cancel_scope.cancel()
        async with made.replica("b") as b:
            await until("its end", lambda: _ended(b))
            [job] = await b.jobs()
            assert job.state == "completed"
            assert len(made_of(made, "1.0.0")) == TARGETS
        assert line.robbed >= 3


async def test_a_transaction_that_is_not_answered_is_hung_up_on(postgresql: str) -> None:
    with link(postgresql) as line:
        store = await Store.open(line.address, patience=1.0)
        assert await store.read(jobs.all_active) == ()
        line.swallow()
        with anyio.fail_after(30):
            with pytest.raises(Unavailable):
                await store.read(jobs.all_active)
        line.heal()
        assert await store.read(jobs.all_active) == ()
        await store.aclose()


async def test_words_are_heard_again_after_the_line_was_lost(postgresql: str) -> None:
    with link(postgresql) as line:
        store = await Store.open(postgresql)
        heard: list[tuple[str, ...]] = []

        async def listen() -> None:
            while True:
                with contextlib.suppress(Exception):
                    async for words in listening.heard(line.address):
                        heard.append(words)
                await anyio.sleep(0.05)

        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            await until("the line", lambda: heard == [()])
            await store.write(lambda c: listening.tell(c, ["reconcile:default/prod", "spread"]))
            await until("two words in one", lambda: heard[1:] == [("reconcile:default/prod", "spread")])
            line.reset()
            await until("the new line", lambda: heard.count(()) == 2)
            await store.write(lambda c: listening.tell(c, ["spread"]))
            await until("a word", lambda: heard[-1] == ("spread",))
            group.cancel_scope.cancel()
        await store.aclose()


async def test_many_words_are_told_in_payloads_that_fit(postgresql: str) -> None:
    store = await Store.open(postgresql)
    words = [f"reconcile:default/environment-{number:05}" for number in range(500)]
    heard: list[str] = []

    async def listen() -> None:
        async for some in listening.heard(postgresql):
            heard.extend(some or ("here",))

    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        await until("the line", lambda: heard == ["here"])
        await store.write(lambda c: listening.tell(c, words))
        await until("all of them", lambda: len(heard) > 500)
        group.cancel_scope.cancel()
    assert heard[1:] == words
    await store.aclose()


# -- a primary and its standby ----------------------------------------------------------------------------------------


@dataclass
class Pair:
    primary: postgres.Postgres
    standby: postgres.Postgres

    @property
    def address(self) -> str:
        """Whichever of the two takes writes."""
        hosts = "&".join(f"host={server.directory}:5432" for server in (self.primary, self.standby))
        return f"postgresql://postgres@/postgres?{hosts}&target_session_attrs=read-write"


@pytest.fixture
def pair() -> Iterator[Pair]:
    try:
        with postgres.running_postgres() as primary, _standby(primary) as standby:
            yield Pair(primary=primary, standby=standby)
    except postgres.NoPostgres as reason:
        pytest.skip(str(reason))


@contextlib.contextmanager
def _standby(primary: postgres.Postgres) -> Iterator[postgres.Postgres]:
    """A copy that follows; the primary waits for it with every commit, as one does that must lose nothing."""
    directory = Path(tempfile.mkdtemp(prefix="hf-sb-", dir="/tmp"))
    if (user := _user()) is not None:
        shutil.chown(directory, user, user)
    binaries = primary._binaries
    copy = [str(binaries / "pg_basebackup"), "-h", str(primary.directory), "-U", "postgres", "-R", "-X", "stream"]
    subprocess.run(
        [*copy, "-c", "fast", "-D", str(directory / "data")], user=user, cwd="/", check=True, capture_output=True
    )
    standby = postgres.Postgres(directory, binaries)
    try:
        standby.start()
        with psycopg.connect(str(primary), autocommit=True) as c:
            c.execute("alter role postgres set synchronous_commit = remote_apply")
            c.execute("alter system set synchronous_standby_names = '*'")
            c.execute("select pg_reload_conf()")
        yield standby
    finally:
        standby.stop()
        shutil.rmtree(directory, ignore_errors=True)


async def test_a_primary_is_lost_in_mid_deploy_and_its_standby_promoted(pair: Pair) -> None:
    made = Crew.of(pair.address, declared("1.0.0", targets=TARGETS))
    async with made.replica("a") as a, made.replica("b") as b:
        await until("the first release", lambda: a.runs("1.0.0") == TARGETS)
        made.shelf.put(declared("2.0.0", targets=TARGETS))
        await until("the middle of it", lambda: a.runs("2.0.0") >= 1)
        await to_thread.run_sync(_fail_over, pair)
        await until("the rest", lambda: a.runs("2.0.0") == TARGETS)
        await until("its end", lambda: _settled(a))
        assert sorted(made_of(made, "2.0.0")) == sorted(set(made_of(made, "2.0.0")))
        [holder] = [one for one in (a, b) if PROD in one.reconciler.held]
        [other] = [one for one in (a, b) if one is not holder]
        holder.reconciler.stop()
        await until("the next holder", lambda: PROD in other.reconciler.held)
        tokens = [event.token for event in other.events if isinstance(event, LeaseTaken)]
        assert max(tokens) > 1_000_000  # by the new timeline, whatever the standby knew


def _fail_over(pair: Pair) -> None:
    pair.primary.stop()
    promote = [str(pair.standby._binaries / "pg_ctl"), "-D", str(pair.standby.directory / "data"), "promote"]
    subprocess.run(promote, user=_user(), cwd="/", check=True, capture_output=True)


def _user() -> str | None:
    """A server refuses to run as root."""
    return "postgres" if os.geteuid() == 0 else None


async def _settled(made: Rig) -> bool:
    try:
        return await _ended(made)
    except Unavailable:
        return False


# -- a pooler between -------------------------------------------------------------------------------------------------


@pytest.fixture
def pooled(postgresql: str) -> Iterator[str]:
    """The database behind pgbouncer, which hands out two servers by the transaction."""
    program = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        pytest.skip("no pgbouncer here (Debian's package is called pgbouncer)")
    directory = Path(tempfile.mkdtemp(prefix="hf-pb-", dir="/tmp"))
    database = postgresql.partition("?host=")
    name = database[0].rpartition("/")[2]
    config = f"""[databases]
{name} = host={database[2]} dbname={name} user=postgres
[pgbouncer]
listen_addr =
unix_socket_dir = {directory}
listen_port = 6432
auth_type = any
pool_mode = transaction
default_pool_size = 2
max_client_conn = 100
"""
    (directory / "config").write_text(config)
    if (user := _user()) is not None:
        shutil.chown(directory, user, user)
    process = subprocess.Popen(
        [program, "-q", str(directory / "config")],
        user=user,
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(500):
            if (directory / ".s.PGSQL.6432").exists():
                break
            time.sleep(0.02)
        yield f"postgresql://postgres@/{name}?host={directory}&port=6432"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


async def test_replicas_work_behind_a_transaction_pooler(postgresql: str, pooled: str) -> None:
    made = Crew.of(pooled, declared("1.0.0", targets=TARGETS))
    made.ttl = timedelta(seconds=20)  # a loaded machine fails nothing
    given = {"direct": postgresql, "patience": 20.0}
    async with made.replica("a", **given) as a, made.replica("b", **given) as b:
        await until("the first release", lambda: a.runs("1.0.0") == TARGETS)
        await until("its end", lambda: _ended(b))
        made.shelf.put(declared("2.0.0", targets=TARGETS))
        await until("the next release", lambda: a.runs("2.0.0") == TARGETS)
        failed = [event for one in (a, b) for event in one.events if isinstance(event, TurnFailed | RoundFailed)]
        assert failed == []
