"""The canonical form: RFC 8785, whichever way the bytes are written."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from stickers import digest

WHOLE = st.integers(min_value=-digest.LARGEST, max_value=digest.LARGEST)
CLEAN = st.text(st.characters(exclude_categories=["Cs"]))
ASCII = st.text(st.characters(max_codepoint=127))


def trees(text: st.SearchStrategy[str]) -> st.SearchStrategy[object]:
    leaves = st.none() | st.booleans() | WHOLE | text
    return st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=20)


@given(trees(CLEAN))
def test_the_canonical_form_is_that_of_the_reference(value: object) -> None:
    assert digest.canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


@given(trees(ASCII))
def test_the_quick_way_for_ascii_writes_the_bytes_of_the_reference(value: object) -> None:
    assert digest.canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


def test_keys_are_ordered_by_their_utf_16_code_units() -> None:
    assert list(json.loads(digest.canonical({"\ufb33": 1, "\U0001f600": 2}))) == ["\U0001f600", "\ufb33"]


@pytest.mark.parametrize("number", [digest.LARGEST + 1, -digest.LARGEST - 1])
def test_numbers_that_read_differently_elsewhere_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match="canonical"):
        digest.plain(number)


def test_floats_have_no_canonical_form() -> None:
    with pytest.raises(TypeError, match="float"):
        digest.canonical({"cpus": 0.5})


def test_times_of_any_zone_are_written_alike() -> None:
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert digest.plain(noon) == "2026-11-21T12:00:00.000000Z"
    with pytest.raises(ValueError, match="zone"):
        digest.plain(noon.replace(tzinfo=None))
