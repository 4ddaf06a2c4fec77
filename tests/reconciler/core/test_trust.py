"""How far a sticker is believed: a case for every row of the table, and for its order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.core.drift import Memory, Opened, Trust, judge_sequence, reading
from reconciler.core.trust import TRUST
from stickers.names import EnvironmentId, InstallationId
from stickers.observation import Worn
from tests.reconciler.core.builders import HERE, PROD, place, placement, sticker, valid

ID = place(1)
LABEL = sticker(placement(ID))
SEALED = Worn(envelope="sealed")


def opened(**changes: object) -> Opened:
    made = Opened(worn=SEALED, id=ID, environment=PROD, installation=HERE, sticker=LABEL)
    return replace(made, **changes)  # type: ignore[arg-type]


def flawed(flaw: Trust, problem: str) -> Opened:
    return opened(sticker=None, flaw=flaw, problem=problem)


ROWS = {
    "none is worn": (opened(worn=None, sticker=None), Trust.NONE, "no sticker is worn"),
    "the file is broken": (
        opened(worn=Worn(envelope=None, problem="half a JSON"), sticker=None),
        Trust.UNREADABLE,
        "half a JSON",
    ),
    "no signature": (flawed(Trust.UNSIGNED, "carries no signature"), Trust.UNSIGNED, "carries no signature"),
    "a broken signature": (flawed(Trust.FORGED, "does not fit the content"), Trust.FORGED, "does not fit"),
    "another format": (flawed(Trust.UNREADABLE, "format v9"), Trust.UNREADABLE, "format v9"),
    "another installation": (opened(installation=InstallationId("elsewhere")), Trust.FORGED, "installation"),
    "another environment": (opened(environment=EnvironmentId("default/dev")), Trust.FORGED, "environment"),
    "another target": (opened(id=place(2)), Trust.FORGED, "placement default/web-00001/api, found at"),
    "older than one seen": (opened(sequence=3), Trust.REPLAYED, "sequence 2 is worn, and 3 has been seen"),
    "just the one seen": (opened(sequence=2), Trust.VALID, ""),
}


@pytest.mark.parametrize("row", ROWS)
def test_each_row_has_its_trust_and_its_sentence(row: str) -> None:
    case, trust, sentence = ROWS[row]
    found = reading(case)
    assert found.trust is trust
    assert sentence in found.reason


def test_every_row_of_the_table_fires_first_for_some_case() -> None:
    fired = {next(n for n, row in enumerate(TRUST) if row.condition(case)) for case, _, _ in ROWS.values()}
    assert fired == set(range(len(TRUST)))


def test_a_misplaced_sticker_is_forged_before_it_is_replayed() -> None:
    assert reading(opened(id=place(2), sequence=9)).trust is Trust.FORGED


def test_a_broken_signature_is_forged_whatever_it_says() -> None:
    assert reading(opened(sticker=LABEL, flaw=Trust.FORGED, sequence=9)).trust is Trust.FORGED


@pytest.mark.parametrize("row", ROWS)
def test_a_sticker_is_handed_on_only_where_its_signature_held(row: str) -> None:
    case, _, _ = ROWS[row]
    found = reading(case)
    sealed = case.sticker is not None and case.flaw is None and case.worn is not None
    assert (found.sticker is not None) is sealed


def test_a_reading_older_than_what_is_remembered_is_replayed() -> None:
    found = judge_sequence(valid(LABEL), Memory(sequence=LABEL.sequence + 1))
    assert found.trust is Trust.REPLAYED
    assert found.sticker is LABEL


def test_a_reading_as_young_as_what_is_remembered_is_the_very_same() -> None:
    before = valid(LABEL)
    assert judge_sequence(before, Memory(sequence=LABEL.sequence)) is before
