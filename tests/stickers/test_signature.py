"""Only what a known key signed about its own subjects is believed, and each other case has its own error."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stickers import digest
from stickers.names import EnvironmentId, KeyId
from stickers.signature import (
    MAX_ENVELOPE,
    Envelope,
    Forged,
    Keyring,
    PublicKey,
    SignatureError,
    Signer,
    Statement,
    Unsigned,
    key_id,
    unverified_payload,
)
from tests.stickers.made import NOON, signer

PROD, STAGING = EnvironmentId("shop/prod"), EnvironmentId("shop/staging")
SIGNER = signer()
KEYRING = Keyring([SIGNER.key])
ENVELOPE = SIGNER.sign(Statement.STICKER, PROD, {"worn": "shop@2.3.1"})


def _payload(envelope: str, keyring: Keyring = KEYRING, environment: EnvironmentId = PROD) -> bytes:
    return keyring.payload(Envelope(envelope), Statement.STICKER, lambda _: environment)


def _changed(**changes: Any) -> str:
    return json.dumps(json.loads(ENVELOPE) | changes, separators=(",", ":"), sort_keys=True)


def test_what_a_known_key_signed_is_believed() -> None:
    assert _payload(ENVELOPE) == b'{"worn":"shop@2.3.1"}'


def test_signing_the_same_twice_gives_the_same_envelope() -> None:
    assert SIGNER.sign(Statement.STICKER, PROD, {"worn": "shop@2.3.1"}) == ENVELOPE


def test_the_signature_is_the_standards() -> None:
    """Ed25519 over the pre-authentication encoding of DSSE, so that anybody can verify without us."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    body = json.loads(ENVELOPE)
    payload, kind = base64.b64decode(body["payload"]), body["payloadType"].encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    public = Ed25519PublicKey.from_public_bytes(SIGNER.key.public)
    public.verify(base64.b64decode(body["signatures"][0]["sig"]), signed)
    assert body["signatures"][0]["keyid"] == SIGNER.key.id


def test_another_implementation_reads_and_verifies_what_is_signed() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from securesystemslib.dsse import Envelope as Sealed
    from securesystemslib.signer import SSlibKey

    public = Ed25519PublicKey.from_public_bytes(SIGNER.key.public)
    sealed = Sealed.from_dict(json.loads(ENVELOPE))
    assert sealed.verify([SSlibKey.from_crypto(public, keyid=SIGNER.key.id)], 1).keys() == {SIGNER.key.id}


def test_what_another_implementation_signs_is_believed() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.dsse import Envelope as Sealed
    from securesystemslib.signer import CryptoSigner, SSlibKey

    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = private.public_key()
    id = key_id(public.public_bytes_raw())
    sealed = Sealed(b"{}", Statement.STICKER.payload_type, {})
    sealed.sign(CryptoSigner(private, SSlibKey.from_crypto(public, keyid=id)))
    keyring = Keyring([PublicKey(id=id, public=public.public_bytes_raw(), subjects=("sticker:*",))])
    assert _payload(json.dumps(sealed.to_dict(), separators=(",", ":"), sort_keys=True), keyring) == b"{}"


def test_no_change_of_a_single_character_is_believed() -> None:
    for at, old in enumerate(ENVELOPE):
        for new in {chr(ord(old) ^ 1), chr(ord(old) ^ 32), "A", "=", " ", ""} - {old}:
            with pytest.raises(SignatureError):
                _payload(ENVELOPE[:at] + new + ENVELOPE[at + 1 :])


@given(st.integers(0, len(ENVELOPE) - 1), st.characters())
@settings(deadline=None)
def test_no_added_character_is_believed(at: int, added: str) -> None:
    with pytest.raises(SignatureError):
        _payload(ENVELOPE[:at] + added + ENVELOPE[at:])


@pytest.mark.parametrize(
    "rewritten",
    [
        json.dumps(json.loads(ENVELOPE)),
        json.dumps(json.loads(ENVELOPE), indent=1),
        ENVELOPE + "\n",
        _changed(more="unsigned"),
        '{"payload":"e30=",' + ENVELOPE[1:],
    ],
)
def test_one_content_has_one_text(rewritten: str) -> None:
    with pytest.raises(Forged, match="not written as it was"):
        _payload(rewritten)


def test_an_envelope_without_signature_is_unsigned() -> None:
    with pytest.raises(Unsigned):
        _payload(_changed(signatures=[]))


def test_a_key_nobody_knows_is_named() -> None:
    with pytest.raises(Forged, match=f"nobody here knows: '{SIGNER.key.id}'"):
        _payload(ENVELOPE, Keyring([signer(seed=9).key]))


def test_a_signature_of_another_content_is_forged() -> None:
    other = json.loads(SIGNER.sign(Statement.STICKER, PROD, {"worn": "shop@9"}))
    with pytest.raises(Forged, match="does not fit the content"):
        _payload(_changed(payload=other["payload"]))


def test_a_signature_under_the_name_of_another_key_is_forged() -> None:
    other = signer(seed=9)
    theft = json.loads(ENVELOPE)["signatures"]
    theft[0]["keyid"] = other.key.id
    with pytest.raises(Forged, match="does not fit the content"):
        _payload(_changed(signatures=theft), Keyring([SIGNER.key, other.key]))


@pytest.mark.parametrize("statement", [Statement.EVIDENCE, Statement.ACTION])
def test_one_kind_of_statement_is_not_taken_for_another(statement: Statement) -> None:
    envelope = SIGNER.sign(statement, PROD, {"worn": "shop@2.3.1"})
    with pytest.raises(Forged, match=f"{statement}.v1"):
        _payload(envelope)


def test_a_long_envelope_is_refused_unread() -> None:
    with pytest.raises(Forged, match="at most"):
        _payload("[" * (MAX_ENVELOPE + 1))


# -- subjects -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "allowed"),
    [
        ("sticker:*", True),
        ("sticker:shop/*", True),
        ("sticker:shop/prod", True),
        ("sticker:*/prod", True),
        ("sticker:shop/staging", False),
        ("sticker:sho/*", False),
        ("sticker:shop", False),
        ("evidence:*", False),
        ("Sticker:*", False),
    ],
)
def test_a_key_is_believed_about_its_subjects_alone(subject: str, allowed: bool) -> None:
    limited = Keyring([replace(SIGNER.key, subjects=(subject,))])
    if allowed:
        assert _payload(ENVELOPE, limited)
    else:
        with pytest.raises(Forged, match="may not speak of sticker:shop/prod"):
            _payload(ENVELOPE, limited)


def test_the_subject_is_that_of_the_content_not_of_the_asker() -> None:
    limited = signer("sticker:shop/staging")
    envelope = limited.sign(Statement.STICKER, STAGING, {"environment": "shop/prod"})

    def said(content: bytes) -> EnvironmentId:
        return EnvironmentId(json.loads(content)["environment"])

    with pytest.raises(Forged, match="may not speak of sticker:shop/prod"):
        Keyring([limited.key]).payload(envelope, Statement.STICKER, said)


def test_the_content_is_not_looked_at_before_the_signature_is_good() -> None:
    def said(content: bytes) -> EnvironmentId:
        raise AssertionError("looked at")

    with pytest.raises(Forged):
        KEYRING.payload(Envelope(_changed(payload="e30=")), Statement.STICKER, said)


@pytest.mark.parametrize("statement", Statement)
def test_a_key_signs_its_own_subjects_alone(statement: Statement) -> None:
    limited = signer(f"{statement}:shop/staging")
    limited.sign(statement, STAGING, {})
    with pytest.raises(Forged, match=f"may not speak of {statement}:shop/prod"):
        limited.sign(statement, PROD, {})


def test_a_retired_key_is_believed_and_signs_no_more() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    retired = replace(SIGNER.key, retired=True)
    assert _payload(ENVELOPE, Keyring([retired, signer(seed=1).key]))
    with pytest.raises(Forged):
        Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)), retired).sign(Statement.STICKER, PROD, {})


# -- whatever comes -------------------------------------------------------------------------------------------------

ids = st.text(max_size=5) | st.integers() | st.none() | st.just(SIGNER.key.id) | st.lists(st.integers(), max_size=1)
signatures = st.lists(
    st.fixed_dictionaries({"keyid": ids, "sig": st.sampled_from(["", "AAAA", "e30=", "ä", 3, None])}), max_size=3
)
bodies = st.fixed_dictionaries(
    {
        "payload": st.sampled_from(["", "e30=", "e30", "W10=", "!!", 3, None]),
        "payloadType": st.sampled_from([Statement.STICKER.payload_type, "\x1b[31m", 3, None, "x" * 500]),
        "signatures": signatures | st.none() | st.just({}) | st.just("ab") | st.just([3]),
    }
)


@given(
    st.text(max_size=30)
    | st.sampled_from(["[" * 9000, "1" * 9000, "null", "3", '"a"', "\ud800"])
    | bodies.map(lambda body: json.dumps(body, separators=(",", ":"), sort_keys=True))
)
@settings(deadline=None)
def test_any_text_is_refused_with_a_sentence_that_can_be_shown(text: str) -> None:
    with pytest.raises(SignatureError) as error:
        _payload(text)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 250
    with suppress(SignatureError):
        unverified_payload(Envelope(text))


def test_what_is_not_believed_can_still_be_shown() -> None:
    assert unverified_payload(Envelope(_changed(payload="e30="))) == b"{}"


def test_a_key_is_named_by_its_content() -> None:
    assert key_id(b"a" * 32) == digest.short(digest.of_bytes(b"a" * 32))
    assert key_id(b"a" * 32) != key_id(b"b" * 32)


def test_a_public_key_that_is_none_is_no_verifier() -> None:
    broken = PublicKey(id=KeyId("x"), public=b"short", subjects=("sticker:*",))
    with pytest.raises(ValueError):
        broken.signed(bytes(64), b"")


@pytest.mark.parametrize("record", [{"at": NOON.replace(tzinfo=None)}, {"cpus": 0.5}])
def test_what_has_no_canonical_form_is_not_signed(record: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        SIGNER.sign(Statement.STICKER, PROD, record)
