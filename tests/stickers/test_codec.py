"""A sticker survives every place it can live, and nothing but a sticker is read as one."""

from __future__ import annotations

import base64
import json
import random
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stickers import codec, digest
from stickers.codec import FORMAT, Unreadable
from stickers.names import EnvironmentId
from stickers.signature import MAX_ENVELOPE, Envelope, Keyring, SignatureError, Statement
from stickers.sticker import Sticker
from tests.stickers.made import NOON, signer, sticker, stickers

SIGNER = signer()
KEYRING = Keyring([SIGNER.key])


def _sealed(worn: Sticker) -> Envelope:
    return SIGNER.sign(Statement.STICKER, worn.claim.environment_id, codec.payload(worn))


def _bytes(body: object) -> bytes:
    return json.dumps(body).encode()


def _payload(**changes: Any) -> dict[str, Any]:
    body = json.loads(digest.canonical(codec.payload(sticker())))
    return {"format": body["format"], "sticker": body["sticker"] | changes}


# -- round trips ----------------------------------------------------------------------------------------------------


@given(stickers)
def test_a_payload_reads_back_as_the_sticker(worn: Sticker) -> None:
    assert codec.read_payload(digest.canonical(codec.payload(worn))) == worn


@given(stickers)
def test_a_sticker_keeps_its_digest_on_the_way(worn: Sticker) -> None:
    assert codec.read_payload(digest.canonical(codec.payload(worn))).digest == worn.digest


@given(stickers)
@settings(max_examples=30, deadline=None)
def test_a_sticker_comes_back_from_a_file(worn: Sticker) -> None:
    envelope = _sealed(worn)
    assert codec.from_file(codec.to_file(envelope)) == envelope
    assert codec.verified(codec.from_file(codec.to_file(envelope)), KEYRING) == worn


@given(stickers)
@settings(max_examples=30, deadline=None)
def test_a_sticker_comes_back_from_labels(worn: Sticker) -> None:
    assert codec.verified(codec.from_labels(codec.to_labels(_sealed(worn))), KEYRING) == worn


@given(stickers, st.randoms(), st.sampled_from([64, 100, 256]))
@settings(max_examples=30, deadline=None)
def test_a_sticker_comes_back_from_chunks_in_any_order(worn: Sticker, order: random.Random, size: int) -> None:
    chunks = codec.to_chunks(_sealed(worn), size)
    order.shuffle(chunks)
    assert codec.verified(codec.from_chunks(chunks), KEYRING) == worn


def test_a_file_laid_out_by_hand_is_the_same_sticker() -> None:
    envelope = _sealed(sticker())
    body = json.loads(codec.to_file(envelope))
    assert codec.from_file(json.dumps(dict(reversed(body.items()))).encode()) == envelope


def test_chunks_are_short_and_of_a_plain_alphabet() -> None:
    chunks = codec.to_chunks(_sealed(sticker()))
    assert len(chunks) > 3
    for chunk in chunks:
        assert len(chunk) <= 256
        assert set(chunk) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_/:")


def test_an_honest_envelope_fits_the_tags_of_a_service() -> None:
    assert len(_sealed(sticker())) < 2048


# -- what is not a sticker ------------------------------------------------------------------------------------------


@given(st.binary(max_size=300))
@example(b"[" * 100_000)
@example(b'{"format":' + b"[" * 60_000)
@example(_bytes({"format": FORMAT}))
@example(_bytes({"format": FORMAT, "envelope": [[[[]]]]}))
@example(b'{"format": "%s", "envelope": {"a": "\\ud800"}}' % FORMAT.encode())
@example(b"\xff\xfe")
@example(b"1" * 10_000)
@example(b"\xef\xbb\xbf{}")
def test_any_bytes_are_a_file_or_unreadable(content: bytes) -> None:
    for read in (codec.from_file, codec.read_payload):
        with suppress(Unreadable):
            read(content)


near = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
odd = near | st.sampled_from(["\ud800", 2**80, "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "12:00"])


@given(data=st.data())
def test_any_change_of_a_payload_is_read_exactly_or_unreadable(data: st.DataObject) -> None:
    body = _payload()
    where = data.draw(st.sampled_from([body["sticker"], body["sticker"]["claim"], body]))
    where[data.draw(st.sampled_from(sorted(where)) | st.text(max_size=3))] = data.draw(odd)
    with suppress(Unreadable):
        assert codec.payload(codec.read_payload(_bytes(body))) == body


@given(data=st.data())
@settings(deadline=None)
def test_any_change_of_a_file_is_read_or_unreadable(data: st.DataObject) -> None:
    body = json.loads(codec.to_file(_sealed(sticker())))
    where = data.draw(st.sampled_from([body, body["envelope"], body["envelope"]["signatures"][0]]))
    where[data.draw(st.sampled_from(sorted(where)) | st.text(max_size=3))] = data.draw(odd)
    with suppress(Unreadable, SignatureError):
        assert codec.verified(codec.from_file(_bytes(body)), KEYRING) == sticker()


@pytest.mark.parametrize(
    "changes",
    [
        {"phase": "lost"},
        {"fence": -1},
        {"fence": True},
        {"fence": 1.0},
        {"sequence": "7"},
        {"sequence": 2**53},
        {"previous": "sha256:short"},
        {"evidence": 3},
        {"job": None},
        {"revision": "\ud800"},
        {"written_at": None},
        {"written_at": "yesterday"},
        {"written_at": "2026-11-21T12:00:00.000000"},
        {"written_at": "2026-11-21T13:00:00.000000+01:00"},
        {"written_at": "9999-12-31T23:59:59.000000-23:59"},
        {"claim": None},
        {"claim": {}},
        {"added": "by a later version"},
    ],
)
def test_a_field_that_is_not_understood_makes_it_unreadable(changes: dict[str, Any]) -> None:
    with pytest.raises(Unreadable):
        codec.read_payload(_bytes(_payload(**changes)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("project", "Shop"),
        ("environment", "../prod"),
        ("target", ""),
        ("component", "a b"),
        ("slot", None),
        ("release", "shop"),
        ("artifact", "sha256:" + "A" * 64),
        ("configuration", None),
        ("installation", 3),
        ("owner", "a field of a later version"),
    ],
)
def test_a_claim_that_is_not_understood_makes_it_unreadable(field: str, value: object) -> None:
    body = _payload()
    body["sticker"]["claim"][field] = value
    with pytest.raises(Unreadable):
        codec.read_payload(_bytes(body))


@pytest.mark.parametrize("field", sorted(_payload()["sticker"]))
def test_a_missing_field_makes_it_unreadable(field: str) -> None:
    body = _payload()
    del body["sticker"][field]
    with pytest.raises(Unreadable):
        codec.read_payload(_bytes(body))


def test_a_time_without_a_zone_is_never_written() -> None:
    with pytest.raises(ValueError, match="without a zone"):
        digest.canonical(codec.payload(sticker(written_at=NOON.replace(tzinfo=None))))


def test_a_time_is_the_same_in_every_zone() -> None:
    there = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert sticker(written_at=there).digest == sticker().digest
    assert codec.payload(sticker(written_at=there)) == codec.payload(sticker())


def test_every_field_of_a_sticker_is_part_of_its_digest() -> None:
    worn = sticker()
    others: dict[str, Any] = {
        "phase": "in_transit",
        "job": "shop/prod:13",
        "key": "d" * 64,
        "fence": 4,
        "sequence": 8,
        "previous": "sha256:" + "d" * 64,
        "revision": "other",
        "evidence": None,
        "written_at": datetime.fromisoformat("2026-11-21T12:00:01Z"),
        "claim": replace(worn.claim, slot="canary"),  # type: ignore[arg-type]
    }
    assert set(others) == set(Sticker.__slots__)
    assert len({worn.digest, *(replace(worn, **{name: value}).digest for name, value in others.items())}) == 11


# -- versions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["holdfast.sticker/v2", "holdfast.sticker/v10", "", "sticker"])
def test_another_version_is_refused_by_name(version: str) -> None:
    envelope = _sealed(sticker())
    file = json.loads(codec.to_file(envelope)) | {"format": version}
    labels = codec.to_labels(envelope) | {codec.LABEL_FORMAT: version}
    for read, content in (
        (codec.from_file, _bytes(file)),
        (codec.read_payload, _bytes(_payload() | {"format": version})),
        (codec.from_labels, labels),
    ):
        with pytest.raises(Unreadable, match=f"'{version}', this version reads {FORMAT}"):
            read(content)  # type: ignore[operator]


def test_what_was_found_is_shown_harmlessly() -> None:
    with pytest.raises(Unreadable) as error:
        codec.from_file(_bytes({"format": "\x1b[31m\u202e" + "x" * 500}))
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 200


def test_a_large_file_is_refused_unread() -> None:
    with pytest.raises(Unreadable, match="at most"):
        codec.from_file(b" " * 70_000)


@pytest.mark.parametrize("labels", [{}, {codec.LABEL: "{}"}, {codec.LABEL_FORMAT: FORMAT}])
def test_labels_without_a_sticker_are_unreadable(labels: dict[str, str]) -> None:
    with pytest.raises(Unreadable):
        codec.from_labels(labels)


# -- chunks ---------------------------------------------------------------------------------------------------------


@given(st.data())
def test_incomplete_or_foreign_chunks_are_refused(data: st.DataObject) -> None:
    chunks = codec.to_chunks(Envelope("x" * 2000), 100)
    other = codec.to_chunks(Envelope("y" * 900), 100)
    at = data.draw(st.integers(0, len(chunks) - 1))
    damaged = data.draw(
        st.sampled_from(
            [
                chunks[:at] + chunks[at + 1 :],
                [*chunks, chunks[at]],
                [*chunks[:at], chunks[at - 1], *chunks[at + 1 :]],
                [*chunks, other[0]],
                [*chunks[:at], other[0], *chunks[at + 1 :]],
                [*chunks[:at], "", *chunks[at + 1 :]],
                [*chunks[:at], chunks[at][:6] + "ä", *chunks[at + 1 :]],
                [*chunks[:at], chunks[at][:6] + "!", *chunks[at + 1 :]],
            ]
        )
    )
    with pytest.raises(Unreadable):
        codec.from_chunks(damaged)


@given(st.lists(st.text(max_size=20), max_size=5) | st.lists(st.from_regex(r"0[0-3]/0[1-4]:.{0,8}"), max_size=4))
@example([])
@example(["00/01:"])
@example(["00/01:ä"])
@example(["00/01:_w"])
@example([f"{index:02d}/101:" for index in range(101)])
def test_any_chunks_are_an_envelope_or_unreadable(chunks: list[str]) -> None:
    with suppress(Unreadable):
        codec.from_chunks(chunks)


def test_more_chunks_than_can_be_numbered_are_not_written() -> None:
    with pytest.raises(Unreadable, match="at most 99"):
        codec.to_chunks(Envelope("x" * MAX_ENVELOPE), 100)


def test_the_largest_envelope_fits_in_chunks() -> None:
    envelope = Envelope("x" * MAX_ENVELOPE)
    assert codec.from_chunks(codec.to_chunks(envelope)) == envelope


# -- trust ----------------------------------------------------------------------------------------------------------


def test_a_sticker_of_another_environment_than_its_key_may_speak_of_is_not_believed() -> None:
    own = signer("sticker:shop/staging", seed=1)
    stolen = own.sign(Statement.STICKER, EnvironmentId("shop/staging"), codec.payload(sticker("prod")))
    with pytest.raises(SignatureError, match="may not speak of sticker:shop/prod"):
        codec.verified(stolen, Keyring([own.key]))


def test_a_well_signed_payload_that_is_no_sticker_is_unreadable() -> None:
    envelope = SIGNER.sign(Statement.STICKER, EnvironmentId("shop/prod"), {"format": "holdfast.sticker/v2"})
    with pytest.raises(Unreadable, match="v2"):
        codec.verified(envelope, KEYRING)


def test_base64_of_the_payload_is_canonical_json() -> None:
    body = json.loads(_sealed(sticker()))
    assert base64.b64decode(body["payload"]) == digest.canonical(codec.payload(sticker()))
