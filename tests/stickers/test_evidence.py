"""What is kept of an action has room in an envelope, whatever was said about it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stickers import digest
from stickers.evidence import ActionRecord, bounded
from stickers.names import ActionKey, EnvironmentId, EvidenceId, JobId
from stickers.signature import MAX_ENVELOPE, Envelope, Statement
from tests.stickers.made import signer

LONGEST = EnvironmentId(f"{'p' * 63}/{'e' * 63}")
CHANGE = f"deploy {'p' * 63}/{'t' * 63}/{'c' * 63}[{'s' * 63}] {'r' * 63}@{'v' * 128} {digest.of(1)} {digest.of(2)}"
RECORD = ActionRecord(
    environment=LONGEST,
    job=JobId(f"{LONGEST}:{10**9}"),
    key=ActionKey("a" * 64),
    fence=10**9,
    target=f"{'p' * 63}/{'t' * 63}",
    attempt=5,
    changes=(CHANGE,),
    result="changed",
    detail="now runs shop@1.0.0",
    began_at=datetime(2026, 1, 2, tzinfo=UTC),
    ended_at=datetime(2026, 1, 3, tzinfo=UTC),
    evidence=(EvidenceId(digest.of("proof")),),
)


def signed(record: ActionRecord) -> Envelope:
    return signer().sign(Statement.ACTION, LONGEST, record)


def test_what_has_room_is_kept_as_it_is() -> None:
    assert bounded(RECORD) == RECORD
    assert RECORD.cut == ()


@pytest.mark.parametrize("piece", ["x", "\n", "\x00", '"', "\\", "ä", "雪", "🚢", "\udc80"])
def test_whatever_a_driver_says_an_envelope_has_room_for_it(piece: str) -> None:
    much = replace(RECORD, detail=piece * 50_000, result=piece * 5_000)
    much = replace(much, changes=(CHANGE,) * 500, evidence=RECORD.evidence * 500)
    assert len(signed(bounded(much))) < MAX_ENVELOPE


@given(st.text(), st.lists(st.text()))
def test_everything_that_is_left_out_is_said(detail: str, changes: list[str]) -> None:
    kept = bounded(replace(RECORD, detail=detail * 100, changes=tuple(changes) * 20))
    assert any(one.startswith("detail:") for one in kept.cut) == (len(kept.detail) < len(detail) * 100)
    assert any(one.startswith("changes:") for one in kept.cut) == (len(kept.changes) < len(changes) * 20)


def test_what_was_cut_is_named_with_its_share() -> None:
    kept = bounded(replace(RECORD, detail="x" * 5_000, evidence=RECORD.evidence * 30))
    assert kept.cut == ("detail: 1930 of 5000 characters left out", "evidence: 6 of 30 proofs left out")
    assert kept.detail == "x" * 3070


def test_what_is_no_text_at_all_can_still_be_signed() -> None:
    assert signed(bounded(replace(RECORD, detail="\udc80 said the host")))
