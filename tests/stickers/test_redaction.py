"""No form of a secret value gets past the filter, whole or in chunks."""

from __future__ import annotations

import base64
import html
import json
import shlex
import urllib.parse
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from stickers.redaction import MASK, Redactor, forms

CANARY = "cAn4ry/+ <&> \"quoted\" 'too' $HOME \\n ünï %41~"
KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\nBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\nshort\n-----END KEY-----\n"

secrets = st.text(st.characters(codec="utf-8", exclude_characters="*"), min_size=8, max_size=40).filter(
    lambda text: len(text.strip()) >= 8 and len(text.splitlines()) == 1
)
around = st.text(max_size=20)


def _redactor(*values: str) -> Redactor:
    redactor = Redactor()
    for value in values:
        redactor.add(value)
    return redactor


WRITTEN = {
    "plain": str,
    "json": json.dumps,
    "json, not ascii": lambda value: json.dumps(value, ensure_ascii=False),
    "json with slashes escaped": lambda value: json.dumps(value).replace("/", "\\/"),
    "json safe in html": lambda value: (
        json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    ),
    "json in json": lambda value: json.dumps(json.dumps({"password": value})),
    "url": lambda value: urllib.parse.quote(value, safe=""),
    "url path": urllib.parse.quote,
    "url query": urllib.parse.quote_plus,
    "url component": lambda value: urllib.parse.quote(value, safe="!'()*"),
    "url, lower case": lambda value: "".join(
        char if char.isalnum() and char.isascii() else "".join(f"%{byte:02x}" for byte in char.encode())
        for char in value
    ),
    "url, every byte": lambda value: "".join(f"%{byte:02X}" for byte in value.encode()),
    "shell": shlex.quote,
    "shell, double quotes": lambda value: "".join("\\" + char if char in '\\"$`' else char for char in value),
    "python": repr,
    "python bytes": lambda value: repr(value.encode()),
    "hex": lambda value: value.encode().hex(),
    "upper hex": lambda value: value.encode().hex().upper(),
    "base64": lambda value: base64.b64encode(value.encode()).decode(),
    "url base64": lambda value: base64.urlsafe_b64encode(value.encode()).decode(),
    "mime base64": lambda value: base64.encodebytes(value.encode()).decode(),
}


@pytest.mark.parametrize("how", WRITTEN)
@pytest.mark.parametrize("value", [CANARY, "correct-horse-battery"])
def test_a_value_is_masked_however_it_is_written(how: str, value: str) -> None:
    text = f"password: {WRITTEN[how](value)} end"
    cleaned = _redactor(value).clean(text)
    assert MASK in cleaned
    assert cleaned.startswith("password: ")
    assert cleaned.endswith(" end")
    assert not _readable(cleaned, value)


def _readable(text: str, value: str) -> bool:
    """Whether somebody who undoes common escapes finds the value, or most of it."""
    undone = {text, urllib.parse.unquote_plus(text), html.unescape(text), text.replace("\\", "")}
    return any(piece in candidate for candidate in undone for piece in (value, value[1:-1]))


@given(value=secrets, before=around, after=around, how=st.sampled_from(sorted(WRITTEN)))
def test_no_written_form_of_any_value_passes(value: str, before: str, after: str, how: str) -> None:
    written = WRITTEN[how](value)
    cleaned = _redactor(value).clean(before + written + after)
    assert value not in cleaned
    assert written.strip("\"'\n") not in cleaned


@given(value=secrets, before=st.binary(max_size=5), after=st.binary(max_size=5), url=st.booleans())
def test_base64_of_something_around_the_value_does_not_show_it(
    value: str, before: bytes, after: bytes, url: bool
) -> None:
    encode, decode = (
        (base64.urlsafe_b64encode, base64.urlsafe_b64decode) if url else (base64.b64encode, base64.b64decode)
    )
    text = encode(before + value.encode() + after).decode()
    cleaned = _redactor(value).clean(text)
    assert MASK in cleaned
    kept = cleaned.replace(MASK, "")
    assert len(kept) * 6 <= (len(before) + len(after)) * 8 + 24  # at most the characters at the borders are kept
    for shift in range(4):
        padded = "A" * shift + kept.rstrip("=")
        assert value.encode()[1:-1] not in decode(padded + "A" * (-len(padded) % 4))


@given(values=st.lists(secrets, min_size=1, max_size=3), data=st.data())
def test_chunks_of_any_size_are_cleaned_like_the_whole(values: list[str], data: st.DataObject) -> None:
    redactor = _redactor(*values)
    piece = around | st.sampled_from(values) | st.sampled_from([form for value in values for form in forms(value)])
    text = "".join(data.draw(st.lists(piece, max_size=6)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    stream = redactor.stream()
    chunks = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert "".join([*map(stream.feed, chunks), stream.finish()]) == redactor.clean(text)


@given(text=st.text(alphabet="ab", max_size=60), size=st.integers(1, 5))
def test_values_that_overlap_themselves_are_cleaned_alike_in_chunks(text: str, size: int) -> None:
    redactor = _redactor("abab", "bbbbb", "aabba")
    stream = redactor.stream()
    chunks = [text[at : at + size] for at in range(0, len(text), size)]
    assert "".join([*map(stream.feed, chunks), stream.finish()]) == redactor.clean(text)


def test_a_value_cut_by_a_chunk_border_is_masked() -> None:
    stream = _redactor("correct-horse").stream()
    assert [stream.feed("a correct-"), stream.feed("horse b"), stream.finish()] == ["a ", MASK + " b", ""]


def test_a_line_that_begins_no_value_is_shown_at_once() -> None:
    stream = _redactor(KEY, CANARY).stream()
    assert stream.feed("GET /health 200\n") == "GET /health 200\n"


def test_what_is_held_back_does_not_grow() -> None:
    redactor = _redactor("aaaaaaaa")
    stream = redactor.stream()
    shown = "".join(stream.feed("a" * 1000) for _ in range(50)) + stream.finish()
    assert shown == MASK
    assert len(stream._held) < 32


def test_lines_of_a_value_of_several_lines_are_values() -> None:
    cleaned = _redactor(KEY).clean("> MIIEvQIBADANBgkqhkiG9w0BAQEF and short")
    assert cleaned == f"> {MASK} and short"


def test_a_long_value_is_masked_in_wrapped_base64() -> None:
    value = "".join(f"line {number} of the key\n" for number in range(20))
    cleaned = _redactor(value).clean(base64.encodebytes(value.encode()).decode())
    assert set(cleaned.split()) == {MASK}


def test_values_that_overlap_leave_nothing_between() -> None:
    assert _redactor("abcdef", "defghi").clean("xabcdefghix") == f"x{MASK}x"


def test_a_value_within_a_longer_one_is_masked_with_it() -> None:
    assert _redactor("horse", "correct-horse-battery").clean("correct-horse-battery") == MASK


def test_space_around_a_value_does_not_hide_it() -> None:
    assert _redactor("  correct-horse\n").clean("(correct-horse)") == f"({MASK})"


@pytest.mark.parametrize("value", ["", "a", "abc", " \n "])
def test_a_value_too_short_to_hide_changes_nothing(value: str) -> None:
    assert _redactor(value).clean("abc \n  and so on") == "abc \n  and so on"


def test_texts_without_values_are_answered_as_they_are() -> None:
    text = "nothing to hide"
    assert _redactor("correct-horse").clean(text) is text


@dataclass
class Login:
    user: str
    password: str


def test_every_text_in_an_event_is_cleaned() -> None:
    redactor = _redactor("correct-horse", "12345678")
    event: dict[str, Any] = {
        "event": "login with correct-horse",
        "correct-horse": 1,
        "nested": [{"tuple": ("x", "correct-horse")}, {"y", "correct-horse"}],
        "object": Login("me", "correct-horse"),
        "error": ValueError("correct-horse"),
        "number": 12345678,
        "bytes": b"correct-horse",
        "kept": [None, True, 3, 1.5],
    }
    cleaned = redactor(None, "info", event)
    assert "correct-horse" not in repr(cleaned)
    assert "12345678" not in repr(cleaned)
    assert cleaned["kept"] == [None, True, 3, 1.5]


@pytest.mark.parametrize("place", ["before the renderer", "after the renderer"])
def test_a_log_line_shows_no_value(place: str) -> None:
    redactor, lines = _redactor(CANARY), []
    renderer = structlog.processors.JSONRenderer()
    processors = [redactor, renderer] if place == "before the renderer" else [renderer, redactor]

    class Sink:
        def info(self, line: str) -> None:
            lines.append(line)

    log = structlog.wrap_logger(Sink(), processors=[*processors])
    log.info("resolved", value=CANARY, nested={"of": [CANARY]})
    assert json.loads(lines[0]) == {"event": "resolved", "value": MASK, "nested": {"of": [MASK]}}
