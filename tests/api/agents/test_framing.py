"""What is read by hand is what the library would read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from api.agents.framing import Pieces, closing, packed, whole

texts = st.binary(max_size=300) | st.integers(0, 70_000).map(lambda size: b"x" * size)


@given(texts)
def test_a_whole_text_is_read_as_it_was_said(text: bytes) -> None:
    said = Frame(Opcode.TEXT, text).serialize(mask=True)
    assert whole(said) == (text if len(text) < 65536 else None)
    assert Pieces().received(said)[0] == [text]


@given(texts)
def test_what_is_packed_is_what_the_library_writes(text: bytes) -> None:
    assert packed(text) == Frame(Opcode.TEXT, text).serialize(mask=False)


@given(st.binary(max_size=40))
def test_only_one_whole_masked_text_is_read_by_hand(data: bytes) -> None:
    text = whole(data)
    if text is not None:
        pieces = Pieces()
        assert pieces.received(data)[0] == [text]
        assert pieces.whole


@given(st.lists(texts, max_size=5), st.lists(st.integers(1, 50), min_size=1, max_size=50), st.booleans())
def test_pieces_make_the_texts_whatever_they_are_cut_into(said: list[bytes], cuts: list[int], halves: bool) -> None:
    stream = b"".join(
        Frame(Opcode.TEXT, text[: len(text) // 2], fin=False).serialize(mask=True)
        + Frame(Opcode.CONT, text[len(text) // 2 :]).serialize(mask=True)
        if halves
        else Frame(Opcode.TEXT, text).serialize(mask=True)
        for text in said
    )
    pieces, heard = Pieces(), []
    for cut in cuts:
        heard += pieces.received(stream[:cut])[0]
        stream = stream[cut:]
    heard += pieces.received(stream)[0]
    assert heard == said
    assert pieces.whole


def test_the_last_frame_says_why() -> None:
    assert closing(1008, "LOCKED") == Frame(Opcode.CLOSE, b"\x03\xf0LOCKED").serialize(mask=False)
