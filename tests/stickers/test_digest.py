"""One content, one digest, wherever and however it was put together."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stickers import digest, names
from tests.stickers.made import stickers

keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | keys,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


@dataclass(frozen=True)
class Record:
    colour: Colour
    at: datetime
    parts: tuple[str, ...]


NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def _turned(value: Any) -> Any:
    """The same, with every mapping put together in the other order."""
    match value:
        case dict():
            return {key: _turned(value[key]) for key in reversed(list(value))}
        case list():
            return [_turned(item) for item in value]
    return value


@given(st.dictionaries(keys, values, max_size=5))
def test_the_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    assert digest.canonical(value) == digest.canonical(_turned(value))


@given(values)
def test_the_canonical_form_reads_back_as_what_it_was(value: Any) -> None:
    assert json.loads(digest.canonical(value)) == value


@given(values, values)
def test_another_content_has_another_digest(one: Any, other: Any) -> None:
    assert (digest.canonical(one) == digest.canonical(other)) == (
        json.dumps(_sorted(one)) == json.dumps(_sorted(other))
    )


def _sorted(value: Any) -> Any:
    match value:
        case dict():
            return {key: _sorted(value[key]) for key in sorted(value)}
        case list():
            return [_sorted(item) for item in value]
    return value


def test_the_canonical_form_is_pinned() -> None:
    record = Record(Colour.RED, NOON, ("b", "a"))
    expected = b'{"at":"2026-11-21T12:00:00.000000Z","colour":"red","parts":["b","a"]}'
    assert digest.canonical(record) == expected
    assert digest.of(record) == "sha256:" + hashlib.sha256(expected).hexdigest()


@given(stickers)
def test_a_records_digest_is_that_of_its_plain_data(sticker: Any) -> None:
    assert digest.of(sticker) == digest.of(digest.plain(sticker)) == digest.of(json.loads(digest.canonical(sticker)))


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)), st.integers(-14 * 60, 14 * 60))
def test_one_instant_has_one_text_in_every_zone(moment: datetime, minutes: int) -> None:
    utc = moment.replace(tzinfo=UTC)
    assert digest.instant(utc) == digest.instant(utc.astimezone(timezone(timedelta(minutes=minutes))))


@pytest.mark.parametrize("value", [NOON.replace(tzinfo=None), {"at": NOON.replace(tzinfo=None)}])
def test_times_without_a_zone_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="without a zone"):
        digest.canonical(value)


@pytest.mark.parametrize("value", [0.5, 1.0, float("nan"), float("inf"), [0.5], {"a": {"b": 0.5}}, (1, 2.0)])
def test_floats_are_refused_at_any_depth(value: object) -> None:
    with pytest.raises(TypeError, match="float has no canonical form"):
        digest.canonical(value)


@pytest.mark.parametrize("value", [object(), b"bytes", Record, 1j])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        digest.canonical(value)


@pytest.mark.parametrize("value", [2**53, -(2**53), {"a": [2**60]}])
def test_whole_numbers_that_others_cannot_read_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="canonical form"):
        digest.canonical(value)


@pytest.mark.parametrize("value", ["\ud800", {"a": "\udfff"}, {"\ud800": 1}])
def test_texts_that_are_no_unicode_are_refused(value: object) -> None:
    with pytest.raises(ValueError):
        digest.canonical(value)


def test_enumerations_are_their_values_and_spans_are_milliseconds() -> None:
    value = {"colour": Colour.RED, "level": Level.LOW, "span": timedelta(seconds=1.5)}
    assert digest.plain(value) == {"colour": "red", "level": 1, "span": 1500}


def test_the_order_of_a_set_does_not_matter() -> None:
    assert digest.canonical({"c", "a", "b"}) == digest.canonical(frozenset(["b", "c", "a"])) == b'["a","b","c"]'


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_pieces_have_the_digest_of_the_whole(pieces: list[bytes]) -> None:
    running = digest.Running()
    for piece in pieces:
        running.update(piece)
    assert running.digest == digest.of_bytes(b"".join(pieces))
    assert running.size == sum(map(len, pieces))


def test_a_short_form_is_the_beginning() -> None:
    assert digest.short(names.digest("sha256:" + "0123456789ab" + "f" * 52)) == "0123456789ab"
