"""A backup is one moment of the store, and is read back whole, into either database, or not at all."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from reconciler.store import backup, history, jobs, leases
from reconciler.store.backup import NotRestored
from reconciler.store.errors import Violated
from reconciler.store.store import Store
from reconciler.store.tables import metadata
from tests.reconciler.core.builders import NOW, PROD, fleet
from tests.reconciler.store.builders import judged, new_job, settled


async def _lived_in(store: Store) -> None:
    """A store with an active job, standings and a lease that is held."""
    lease = await settled(store)
    await store.write(lambda c: jobs.create(c, new_job(fleet(3)), lease, NOW))
    drifts = [judged(each) for each in fleet(3).placements]
    await store.write(lambda c: history.standings(c, PROD, drifts, (), lease, NOW))


def _everything(c: Connection) -> dict[str, list[tuple[object, ...]]]:
    return {
        table.name: [tuple(row) for row in c.execute(select(table).order_by(*table.primary_key))]
        for table in metadata.sorted_tables
        if table.name not in {"lease", *backup.PASSING}
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "all.backup"


@pytest.mark.parametrize("into", ["sqlite", "postgresql"])
async def test_what_was_kept_in_either_is_kept_in_either_again(
    store: Store, file: Path, into: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    await _lived_in(store)
    before = await store.read(_everything)
    copied = await store.read(lambda c: backup.write(c, file, NOW))
    await store.aclose()
    url = f"sqlite:///{tmp_path / 'other.db'}"
    if into == "postgresql":
        from tests.harness import postgres

        with postgres.database(request.getfixturevalue("server")) as url:
            await _is_the_same(url, file, before)
    else:
        await _is_the_same(url, file, before)
    assert copied.rows["job"] == 1
    assert file.stat().st_mode & 0o777 == 0o600


async def _is_the_same(url: str, file: Path, before: dict[str, list[tuple[object, ...]]]) -> None:
    backup.restore(url, file)
    restored = await Store.open(url, now=lambda: NOW)
    try:
        assert await restored.read(_everything) == before
        assert await restored.read(lambda c: leases.load(c, PROD)) is None
        lease = await settled_again(restored)
        assert lease.token > 1
        drifts = [judged(each, reason="another") for each in fleet(3).placements]
        assert await restored.write(lambda c: history.standings(c, PROD, drifts, (), lease, NOW)) == 3
        with pytest.raises(Violated):
            await restored.write(lambda c: c.exec_driver_sql("update job set kind = 'adopt'"))
    finally:
        await restored.aclose()


async def settled_again(store: Store):  # type: ignore[no-untyped-def]
    from datetime import timedelta

    lease = await store.write(lambda c: leases.acquire(c, PROD, "new", now=NOW, ttl=timedelta(seconds=30)))
    assert lease is not None
    return lease


@pytest.mark.parametrize("spoilt", ["cut", "changed", "without its end", "something else", "not there"])
async def test_a_file_that_is_not_whole_is_refused_and_nothing_is_written(
    store: Store, file: Path, spoilt: str, tmp_path: Path
) -> None:
    await _lived_in(store)
    await store.read(lambda c: backup.write(c, file, NOW))
    text = gzip.decompress(file.read_bytes())
    match spoilt:
        case "cut":
            file.write_bytes(file.read_bytes()[:-20])
        case "changed":
            file.write_bytes(gzip.compress(text.replace(b"holdfast", b"somebody", 1)))
        case "without its end":
            file.write_bytes(gzip.compress(text[: text.rstrip().rindex(b"\n") + 1]))
        case "something else":
            file.write_bytes(gzip.compress(json.dumps({"hello": 1}).encode()))
        case _:
            file.unlink()
    with pytest.raises(NotRestored, match=str(file)):
        backup.restore(f"sqlite:///{tmp_path / 'other.db'}", file)
    assert not (tmp_path / "other.db").exists()


async def test_a_store_that_is_not_empty_is_not_written_over(store: Store, address: str, file: Path) -> None:
    await _lived_in(store)
    await store.read(lambda c: backup.write(c, file, NOW))
    before = await store.read(_everything)
    await store.aclose()
    with pytest.raises(NotRestored, match="not empty"):
        backup.restore(address, file)
    again = await Store.open(address, now=lambda: NOW)
    assert await again.read(_everything) == before
    await again.aclose()


async def test_a_backup_is_never_written_over_another(store: Store, file: Path) -> None:
    file.write_text("mine")
    with pytest.raises(FileExistsError):
        await store.read(lambda c: backup.write(c, file, NOW))
    assert file.read_text() == "mine"


async def test_one_of_another_schema_says_which_holdfast_to_use(store: Store, file: Path, tmp_path: Path) -> None:
    await _lived_in(store)
    await store.read(lambda c: backup.write(c, file, NOW))
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    head = json.loads(lines[0]) | {"schema": "0000"}
    lines[0] = json.dumps(head, separators=(",", ":")).encode() + b"\n"
    import hashlib

    end = json.loads(lines[-1]) | {"digest": hashlib.sha256(b"".join(lines[:-1])).hexdigest()}
    lines[-1] = json.dumps(end).encode() + b"\n"
    file.write_bytes(gzip.compress(b"".join(lines)))
    with pytest.raises(NotRestored, match="has schema 0000"):
        backup.restore(f"sqlite:///{tmp_path / 'other.db'}", file)
