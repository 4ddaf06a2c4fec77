"""Signed statements are kept by id and never change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import text

from reconciler.store import evidence
from reconciler.store.errors import Violated
from reconciler.store.store import Store
from stickers.names import EvidenceId
from stickers.signature import Envelope, Statement
from tests.reconciler.core.builders import fleet
from tests.reconciler.store.builders import proof, settled

ROW = proof(fleet(1).placements[0])


async def test_a_statement_comes_back_as_it_was(store: Store) -> None:
    await settled(store)
    of_target = replace(ROW, id=EvidenceId("another"), component=None, kind=Statement.ACTION)
    await store.write(lambda c: evidence.keep(c, [ROW, of_target]))
    assert await store.read(lambda c: evidence.load(c, ROW.id)) == ROW
    assert await store.read(lambda c: evidence.load(c, of_target.id)) == of_target


async def test_a_statement_that_is_kept_stays_as_it_is(store: Store) -> None:
    await settled(store)
    await store.write(lambda c: evidence.keep(c, [ROW]))
    await store.write(lambda c: evidence.keep(c, [replace(ROW, envelope=Envelope("another"))]))
    assert await store.read(lambda c: evidence.load(c, ROW.id)) == ROW


async def test_nobody_changes_a_statement(store: Store) -> None:
    await settled(store)
    await store.write(lambda c: evidence.keep(c, [ROW]))
    with pytest.raises(Violated, match="evidence_no_update"):
        await store.write(lambda c: c.execute(text("update evidence set envelope = 'another'")))


async def test_nothing_to_keep_is_nothing_written(store: Store) -> None:
    await store.write(lambda c: evidence.keep(c, []))
    assert await store.read(lambda c: evidence.load(c, ROW.id)) is None
