from __future__ import annotations

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from desired_state import strict
from desired_state.document import Document
from desired_state.findings import Finding, Notes


def read(content: bytes | str, parser: object = strict.PARSER) -> tuple[list[Document], list[Finding]]:
    notes = Notes()
    raw = content if isinstance(content, bytes) else content.encode()
    documents = strict.read("f.yaml", raw, notes, parser=parser)
    return list(documents), list(notes.sorted())


def contents(content: bytes | str) -> list[object]:
    documents, findings = read(content)
    assert findings == []
    return [document.content for document in documents]


def places(content: bytes | str, parser: object = strict.PARSER) -> list[tuple[str, int, int, str]]:
    return [(found.code, found.line, found.column, found.path) for found in read(content, parser)[1]]


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("null", None),
        ("~", None),
        ("", None),
        ("true", True),
        ("False", False),
        ("0", 0),
        ("-3", -3),
        ("65535", 65535),
        ("0.5", 0.5),
        ("-1.25", -1.25),
        ("'5'", "5"),
        ('"null"', "null"),
        ("text", "text"),
        ("ünïcode 😀", "ünïcode 😀"),
        ('"tab\\tand\\nbreak"', "tab\tand\nbreak"),
        # what readers of YAML do not agree on is text
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("012", "012"),
        ("0o12", "0o12"),
        ("0x1F", "0x1F"),
        ("0b11", "0b11"),
        ("1e3", "1e3"),
        ("1.5e3", "1.5e3"),
        (".5", ".5"),
        ("5.", "5."),
        ("+5", "+5"),
        ("1_000", "1_000"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("22:22", "22:22"),
        ("2026-11-22", "2026-11-22"),
        ("2026-11-22T06:00:00Z", "2026-11-22T06:00:00Z"),
        ("2.3.1", "2.3.1"),
        ("=", "="),
    ],
)
def test_scalars_are_what_every_reader_takes_them_for(scalar: str, value: object) -> None:
    (content,) = contents(f"key: {scalar}\n")
    assert content == {"key": value}
    assert type(content["key"]) is type(value)  # type: ignore[index]


@pytest.mark.parametrize("key", ["on", "yes", "no", "y", "22:22", "2026-11-22", "<<x", "'1'", '"true"'])
def test_keys_that_look_like_something_else_are_texts(key: str) -> None:
    assert contents(f"{key}: 1\n") == [{key.strip("'\""): 1}]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "\n\n", "---\n", "---\n---\n...\n", "--- # nothing\n"])
def test_a_text_without_content_holds_no_documents(text: str) -> None:
    assert contents("\n" + text) == []


def test_several_documents_stand_in_one_file() -> None:
    assert contents("a: 1\n---\n\n---\nb: 2\n...\n---\nc: 3\n") == [{"a": 1}, {"b": 2}, {"c": 3}]


def test_one_mark_of_byte_order_is_taken_off() -> None:
    (document,) = read("\ufeffa: 1\n")[0]
    assert (document.content, document.position(("a",))) == ({"a": 1}, (1, 4))


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_every_node_knows_where_it_stood_whatever_ends_a_line(line_break: str) -> None:
    text = "# ü\na:\n  b: [1, {c: ü, d: 2}]\n---\ne: |\n  x\nf: g\n".replace("\n", line_break)
    first, second = read(text)[0]
    assert first.position(("a",), key=True) == (2, 1)
    assert first.position(("a", "b")) == (3, 6)
    assert first.position(("a", "b", 1, "d"), key=True) == (3, 17)
    assert first.position(("a", "b", 1, "d")) == (3, 20)
    assert second.position(("f",)) == (7, 4)


def test_the_position_of_what_is_not_there_is_the_deepest_node_on_the_way() -> None:
    (document,) = read("a:\n  b: {}\n")[0]
    assert document.position(("a", "b", "c", 0)) == (2, 6)
    assert document.position(("x",)) == (1, 1)


REFUSED = [
    ("a: &x 1\n", [("ANCHOR", 1, 4, "a")]),
    ("a: &x {b: 1}\n", [("ANCHOR", 1, 4, "a")]),
    ("a: 1\nb: *x\n", [("ALIAS", 2, 4, "b")]),
    ("*x : 1\n", [("ALIAS", 1, 1, "")]),
    ("a: [1, *x]\n", [("ALIAS", 1, 8, "a[1]")]),
    ("a:\n  <<: {b: 1}\n", [("MERGE_KEY", 2, 3, "a")]),
    ("a: !!str 5\n", [("TAG", 1, 4, "a")]),
    ("a: ! 5\n", [("TAG", 1, 4, "a")]),
    ("a: !secret x\n", [("TAG", 1, 4, "a")]),
    ("a: !!binary aGk=\n", [("TAG", 1, 4, "a")]),
    ("!!python/object/apply:os.system ['id']\n", [("TAG", 1, 1, "")]),
    ("a: !!python/name:os.system\n", [("TAG", 1, 4, "a")]),
    ("a: 1\nb: 2\na: 3\n", [("KEY_TWICE", 3, 1, "")]),
    ("x: {a: 1, 'a': 2, \"a\": 3}\n", [("KEY_TWICE", 1, 11, "x"), ("KEY_TWICE", 1, 19, "x")]),
    ("? [a, b]\n: 1\n", [("KEY_NOT_TEXT", 1, 3, "")]),
    ("? {a: b}\n: {c: d}\n", [("KEY_NOT_TEXT", 1, 3, "")]),
    ("{[a]: b}: c\n", [("KEY_NOT_TEXT", 1, 1, ""), ("KEY_NOT_TEXT", 1, 2, "")]),
    ("8080: a\n", [("KEY_NOT_TEXT", 1, 1, "")]),
    ("true: a\n", [("KEY_NOT_TEXT", 1, 1, "")]),
    ("null: a\n", [("KEY_NOT_TEXT", 1, 1, "")]),
    ("{~: a}\n", [("KEY_NOT_TEXT", 1, 2, "")]),
    ("%YAML 1.2\n---\na: 1\n", [("DIRECTIVE", 1, 1, "")]),
    ("a: 1\n...\n%TAG ! tag:example.com,2000:\n---\nb: 1\n", [("DIRECTIVE", 3, 1, "")]),
    ("%WHATEVER x\n---\na: 1\n", [("DIRECTIVE", 1, 1, "")]),
    ("%YAML 9.9\n---\na: 1\n", [("DIRECTIVE", 1, 1, "")]),
    ("- a\n- b\n", [("NOT_A_MAP", 1, 1, "")]),
    ("only text\n", [("NOT_A_MAP", 1, 1, "")]),
    ("5\n", [("NOT_A_MAP", 1, 1, "")]),
    ("a: 1\n---\n- b\n", [("NOT_A_MAP", 3, 1, "")]),
    ("a: 123456789012345678\n", []),
    ("a: 1234567890123456789\n", [("NUMBER_TOO_LONG", 1, 4, "a")]),
    ("a: " + "9" * 10_000 + "\n", [("NUMBER_TOO_LONG", 1, 4, "a")]),
    ("a: 0." + "9" * 10_000 + "\n", [("NUMBER_TOO_LONG", 1, 4, "a")]),
    ("a:\n\tb: 1\n", [("TAB", 2, 1, "a")]),
    ("a: b: c\n", [("NOT_YAML", 1, 5, "")]),
    ("a: 'open\n", [("NOT_YAML", 2, 1, "a")]),
    ("a: @x\n", [("NOT_YAML", 1, 4, "a")]),
    ('a: "\\e[31m"\n', [("UNSEEN_CHARACTER", 1, 4, "a")]),
    ('a: "\\u202e"\n', [("UNSEEN_CHARACTER", 1, 4, "a")]),
    ('a: "\\0"\n', [("UNSEEN_CHARACTER", 1, 4, "a")]),
    ('a: "\\r"\n', [("UNSEEN_CHARACTER", 1, 4, "a")]),
    ('"\\x07": 1\n', [("UNSEEN_CHARACTER", 1, 1, "")]),
    ("ab: \x00\n", [("UNSEEN_CHARACTER", 1, 5, "")]),
    ("a: 1\nb: \x1b[31m\n", [("UNSEEN_CHARACTER", 2, 4, "")]),
    ("a: \x7f\n", [("UNSEEN_CHARACTER", 1, 4, "")]),
    ("a: \x85\n", [("UNSEEN_CHARACTER", 1, 4, "")]),
    ("a: \u2028\n", [("UNSEEN_CHARACTER", 1, 4, "")]),
    ("a: \u202e\n# \u2066\n", [("UNSEEN_CHARACTER", 1, 4, ""), ("UNSEEN_CHARACTER", 2, 3, "")]),
    ("a: 1\n\ufeffb: 2\n", [("UNSEEN_CHARACTER", 2, 1, "")]),
    ("\ufeff\ufeffa: 1\n", [("UNSEEN_CHARACTER", 1, 1, "")]),
    ("a: \uffff\n", [("UNSEEN_CHARACTER", 1, 4, "")]),
    (b"a: \xff\n", [("NOT_UTF8", 1, 4, "")]),
    (b"a: 1\nb: \xc3\x28\n", [("NOT_UTF8", 2, 4, "")]),
    (b"a: \xed\xa0\x80\n", [("NOT_UTF8", 1, 4, "")]),
    ("a: 1\n".encode("utf-16"), [("NOT_UTF8", 1, 1, "")]),
    (b"", [("FILE_EMPTY", 1, 1, "")]),
]


@pytest.mark.parametrize(("content", "expected"), REFUSED)
def test_what_can_be_taken_two_ways_is_refused_where_it_stands(
    content: bytes | str, expected: list[tuple[str, int, int, str]]
) -> None:
    assert places(content) == expected


@pytest.mark.parametrize(("content", "expected"), REFUSED)
def test_the_parser_in_python_refuses_the_same(content: bytes | str, expected: list[tuple[str, int, int, str]]) -> None:
    found = places(content, yaml.Loader)
    assert [place[:3] for place in found] == [place[:3] for place in expected]


def test_what_is_refused_says_what_would_be_right() -> None:
    _, findings = read("a: &x 1\nb: *x\n<<: 1\nb: 2\n")
    assert [str(found) for found in findings] == [
        "f.yaml:1:4: a: found the anchor &x; expected no anchors: each value where it is used",
        "f.yaml:2:4: b: found the alias *x; expected the value itself",
        "f.yaml:3:1: found a merge key; expected the keys themselves",
        "f.yaml:4:1: found the key b a second time; expected it once; it stands on line 2",
    ]


def test_a_syntax_error_names_the_line_on_which_the_open_thing_began() -> None:
    (finding,) = read("a: [1,\n  2\nb: 3\n")[1]
    assert "flow sequence that begins on line 1" in str(finding)


def test_laughing_a_billion_times_costs_nothing() -> None:
    lines = ["a0: &a0 [lol, lol]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 200)]
    documents, findings = read("\n".join(lines))
    assert {found.code for found in findings} == {"ANCHOR", "ALIAS"}
    assert not documents[0].whole


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_nesting_has_an_end(opening: str) -> None:
    (place,) = [place for place in places(opening * 5_000) if place[0] != "KEY_NOT_TEXT"]
    assert place[:2] == ("TOO_DEEP", 1)


def test_fifty_levels_are_read_and_one_more_is_not() -> None:
    assert places("[" * 49 + "]" * 49)[0][0] == "NOT_A_MAP"
    assert contents("a: " + "[" * 49 + "]" * 49)
    assert places("a: " + "[" * 50 + "]" * 50)[0][0] == "TOO_DEEP"


def test_a_file_has_a_limit_of_nodes() -> None:
    text = "a: [" + "1," * strict.NODES + "]\n"
    assert [place[0] for place in places(text)] == ["TOO_MANY_NODES"]


def test_a_file_has_a_limit_of_bytes() -> None:
    assert places(b"#" * strict.FILE_BYTES) == []
    assert places(b"#" * (strict.FILE_BYTES + 1)) == [("FILE_TOO_LARGE", 1, 1, "")]


def test_a_broken_document_hides_no_finding_of_the_next() -> None:
    documents, findings = read("---\na: [1\n---\nb: &x 2\n---\nc: 'open\n---\nd: 4\n")
    assert [(found.code, found.line) for found in findings] == [("NOT_YAML", 3), ("ANCHOR", 4), ("NOT_YAML", 7)]
    assert [(document.content, document.whole) for document in documents] == [
        ({"a": [1]}, False),
        ({"b": 2}, False),
        ({}, False),
        ({"d": 4}, True),
    ]
    assert documents[-1].position(("d",)) == (8, 4)


def test_a_file_of_broken_documents_is_given_up_after_a_while() -> None:
    found = places("---\n[\n" * 1000)
    assert len(found) == strict.RESTARTS + 1
    assert found[-1][0] == "TOO_MANY_ERRORS"


def test_what_was_read_before_an_error_tells_which_document_it_is() -> None:
    (document,) = read("kind: Target\nname: web-1\nlabels: {a: b\nx: y\n")[0]
    assert (document.content["kind"], document.content["name"], document.whole) == ("Target", "web-1", False)


def test_the_name_of_a_file_forges_no_line() -> None:
    notes = Notes()
    strict.read("a\n\x1b[31mb.yaml", b"", notes)
    assert str(notes.sorted()[0]).startswith("a\\n\\x1b[31mb.yaml:1:1: ")


YAML_LIKE = st.text(alphabet="ab01:-?[]{},&*!|>'\"%@`#\\ \n\t\r~<.\ufeff\x00\u2028é", max_size=80)


@given(st.one_of(st.binary(max_size=200), YAML_LIKE.map(lambda text: text.encode())))
@settings(max_examples=400, deadline=None)
@example(b"\xef\xbb\xbf")
@example(b"? ? ? ?")
@example(b"&a")
@example(b"*")
@example(b"- - - -\n -")
@example(b"'\n---\n'")
@example(b"|9\n x")
def test_no_bytes_make_the_reader_raise(content: bytes) -> None:
    documents, findings = read(content)
    assert all(str(found).isprintable() for found in findings)
    assert all(document.whole for document in documents) or findings


@given(YAML_LIKE.map(lambda text: text.encode()))
@settings(max_examples=200, deadline=None)
def test_both_parsers_agree_on_what_is_whole(content: bytes) -> None:
    ours, _ = read(content)
    theirs, findings = read(content, yaml.Loader)
    if not findings and not read(content)[1]:
        assert [document.content for document in ours] == [document.content for document in theirs]


@pytest.mark.parametrize("error", [RecursionError, ValueError, MemoryError, OverflowError])
def test_what_the_parser_itself_cannot_bear_is_a_finding(error: type[Exception]) -> None:
    def broken(_: object) -> object:
        raise error("inside")

    assert places("a: 1\n", broken) == [("UNREADABLE", 1, 1, "")]
