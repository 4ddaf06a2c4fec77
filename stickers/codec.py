"""Sticker to text and back, and the places a text can live: a JSON file, container labels, short chunks.

Versioned: what this version cannot read it refuses, naming what it found.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from stickers import names
from stickers.signature import MAX_ENVELOPE, Envelope, Keyring, Statement
from stickers.sticker import Claim, Phase, Sticker

FORMAT: Final = "holdfast.sticker/v1"
LABEL: Final = "holdfast.sticker"
LABEL_FORMAT: Final = "holdfast.sticker.format"
CHUNK: Final = 256
MOST_CHUNKS: Final = 99  # two digits number them
LARGEST: Final = 4 * MAX_ENVELOPE  # bytes of a file; indented and escaped, an honest one stays far below


class Unreadable(ValueError):
    """A sticker in a form this version cannot read; the text says what was found."""


def payload(sticker: Sticker) -> dict[str, object]:
    """What is signed: the sticker with its format."""
    from stickers.digest import plain

    return {"format": FORMAT, "sticker": plain(sticker)}


def read_payload(content: bytes) -> Sticker:
    """The sticker in a verified payload; `Unreadable` when its format or a field is not known."""
    try:
        body = json.loads(content)
        if body["format"] != FORMAT:
            raise Unreadable(f"sticker format {str(body['format'])[:40]!r}, this version reads {FORMAT}")
        sticker = _sticker(body["sticker"])
        if payload(sticker) != body:
            raise Unreadable("a sticker with fields this version does not know, or written in another way")
        return sticker
    except Unreadable:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise Unreadable(f"not a sticker: {type(error).__name__}: {str(error)[:80]}") from None


def subject_in(content: bytes) -> str:
    """The target of an environment that a sticker's payload speaks of: the subject its key must be allowed."""
    claim = read_payload(content).claim
    return f"{claim.environment_id}/{claim.target}"


def verified(envelope: Envelope, keyring: Keyring) -> Sticker:
    """The sticker in the envelope, if a key that may speak of its environment signed it.

    Raises `Unreadable`, `Unsigned` or `Forged`.
    """
    return read_payload(keyring.payload(envelope, Statement.STICKER, subject_in))


def to_file(envelope: Envelope) -> bytes:
    return json.dumps({"format": FORMAT, "envelope": json.loads(envelope)}, indent=1, sort_keys=True).encode() + b"\n"


def from_file(content: bytes) -> Envelope:
    if len(content) > LARGEST:
        raise Unreadable(f"a sticker file of {len(content)} bytes, at most {LARGEST} are read")
    try:
        body = json.loads(content.decode())
        found = body["format"]
        if found != FORMAT:
            raise Unreadable(f"sticker file of format {str(found)[:40]!r}, this version reads {FORMAT}")
        return Envelope(json.dumps(body["envelope"], separators=(",", ":"), sort_keys=True))
    except Unreadable:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Unreadable(f"not a sticker file: {type(error).__name__}") from None


def to_labels(envelope: Envelope) -> dict[str, str]:
    return {LABEL_FORMAT: FORMAT, LABEL: str(envelope)}


def from_labels(labels: Mapping[str, str]) -> Envelope:
    found = labels.get(LABEL_FORMAT)
    if found != FORMAT:
        raise Unreadable(f"sticker labels of format {str(found)[:40]!r}, this version reads {FORMAT}")
    if LABEL not in labels:
        raise Unreadable(f"label {LABEL} is missing")
    return Envelope(labels[LABEL])


def to_chunks(envelope: Envelope, size: int = CHUNK) -> list[str]:
    """The envelope as base64url in numbered chunks of at most `size` characters, for stores of short values."""
    text = base64.urlsafe_b64encode(str(envelope).encode()).decode().rstrip("=")
    room = size - 6  # "nn/nn:"
    parts = [text[start : start + room] for start in range(0, len(text), room)]
    if len(parts) > MOST_CHUNKS:
        raise Unreadable(f"the envelope needs {len(parts)} chunks, at most {MOST_CHUNKS} are written")
    return [f"{index:02d}/{len(parts):02d}:{part}" for index, part in enumerate(parts)]


def from_chunks(chunks: Sequence[str]) -> Envelope:
    """The envelope from its chunks in any order; a missing, doubled or foreign chunk is refused."""
    if len(chunks) > MOST_CHUNKS:
        raise Unreadable(f"{len(chunks)} chunks of a sticker, at most {MOST_CHUNKS} are read")
    ordered = sorted(chunks)
    expected = [f"{index:02d}/{len(ordered):02d}:" for index in range(len(ordered))]
    if not ordered or any(not chunk.startswith(head) for chunk, head in zip(ordered, expected, strict=True)):
        raise Unreadable("the chunks of the sticker are not complete")
    text = "".join(chunk[6:] for chunk in ordered)
    try:
        return Envelope(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode())
    except ValueError:
        raise Unreadable("the chunks of the sticker are not base64url") from None


def _sticker(body: dict[str, Any]) -> Sticker:
    claim = {name: sys.intern(value) for name, value in body["claim"].items()}  # thousands say mostly the same
    return Sticker(
        claim=Claim(
            installation=names.InstallationId(_text(claim["installation"])),
            project=names.ProjectName(names.name(claim["project"])),
            environment=names.EnvironmentName(names.name(claim["environment"])),
            target=names.TargetName(names.name(claim["target"])),
            component=names.ComponentName(names.name(claim["component"])),
            slot=names.SlotName(names.name(claim["slot"])),
            release=names.release_name(claim["release"]),
            artifact=names.digest(claim["artifact"]),
            configuration=names.digest(claim["configuration"]),
        ),
        phase=Phase(body["phase"]),
        job=names.JobId(sys.intern(_text(body["job"]))),
        key=names.ActionKey(_text(body["key"])),
        fence=_count(body["fence"]),
        sequence=_count(body["sequence"]),
        previous=None if body["previous"] is None else names.digest(body["previous"]),
        revision=sys.intern(_text(body["revision"])),
        evidence=None if body["evidence"] is None else names.EvidenceId(_text(body["evidence"])),
        written_at=datetime.fromisoformat(body["written_at"]),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Unreadable(f"{str(value)[:40]!r} where a text is expected")
    value.encode()  # what has no bytes has no digest
    return value


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise Unreadable(f"{str(value)[:40]!r} where a count is expected")
    return value
