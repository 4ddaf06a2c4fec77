"""The strict reader of YAML: one way to say a thing, and a position for everything that was said.

It reads the event stream, before anything is constructed. Refused are anchors, aliases, merge keys, tags, directives,
doubled keys, keys that are not texts, and characters that cannot be seen or that turn what is seen around. Scalars are
those on which every reader of YAML agrees: null, true and false, numbers written as in JSON; everything else is text:
`yes`, `012`, `0o12`, `1e3`, `.inf`, `22:22` and dates are what they look like.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import yaml
from yaml import events

from desired_state.document import BROKEN, Broken, Document, Map, Position, Seq
from desired_state.findings import Finding, Notes, Path, escaped, key_text, path_text, shown

FILE_BYTES: Final = 1 << 20
NODES: Final = 100_000  # in one file
DEPTH: Final = 50
DIGITS: Final = 18  # of a whole number, so that every reader holds it exactly
RESTARTS: Final = 20  # documents that may be broken before the rest of a file is left unread

PARSER: Final[Any] = getattr(yaml, "CLoader", yaml.Loader)  # the C parser where PyYAML was built with it

_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff]"
)
_UNSEEN_IN_VALUE: Final = re.compile(_UNSEEN.pattern[:-1] + "\r]")  # as an escape: no value holds a carriage return
_BREAK: Final = re.compile(r"\r\n|\n|\r")
_DOCUMENT: Final = re.compile(r"(?:^|(?<=\r))---(?=[ \t\r\n]|$)", re.MULTILINE)
_DIRECTIVE: Final = re.compile(r"(?:^|(?<=\r))%", re.MULTILINE)
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)")
_FLOAT: Final = re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+")
_WORDS: Final[dict[str, bool | None]] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_HINTS: Final = (
    ("mapping values are not allowed", "quotes around a text with a colon and a space in it"),
    ("found character", "quotes around a text that begins with such a character"),
)
_NUMBER_START: Final = frozenset("-0123456789")


def read(file: str, content: bytes, notes: Notes, *, parser: Any = PARSER) -> tuple[Document, ...]:
    """The documents of one file, as far as they can be read. What is wrong goes to the notes; nothing is raised."""
    reading = _File(escaped(file), notes)
    try:
        text = reading.decoded(content)
        if text is not None:
            reading.read(text, parser)
    except (RecursionError, ValueError, MemoryError, OverflowError) as error:
        reading.note("UNREADABLE", (1, 1), f"a file that cannot be read ({type(error).__name__})", "YAML documents")
    return tuple(reading.documents)


class _File:
    """One file on its way: what was read of it so far."""

    def __init__(self, name: str, notes: Notes) -> None:
        self.name, self.notes = name, notes
        self.documents: list[Document] = []
        self.nodes = 0

    def note(self, code: str, position: Position, found: str, expected: str, path: Path = ()) -> None:
        line, column = position
        where = path_text(path)
        self.notes.add(
            Finding(code=code, file=self.name, line=line, column=column, path=where, found=found, expected=expected)
        )

    def decoded(self, content: bytes) -> str | None:
        """The text, or None when it is refused as a whole."""
        if len(content) > FILE_BYTES:
            self.note("FILE_TOO_LARGE", (1, 1), f"more than {FILE_BYTES} bytes", "smaller files")
            return None
        if not content:
            self.note("FILE_EMPTY", (1, 1), "a file without a byte", "documents, a comment, or no file at all")
            return None
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            before = content[: error.start].decode("utf-8").removeprefix("\ufeff")
            self.note("NOT_UTF8", _position(before, len(before)), f"the byte 0x{content[error.start]:02x}", "UTF-8")
            return None
        return self._seen(text.removeprefix("\ufeff"))

    def _seen(self, text: str) -> str | None:
        refused = [(found.start(), found[0]) for found in _UNSEEN.finditer(text)]
        for offset, char in refused[:20]:
            self.note(
                "UNSEEN_CHARACTER", _position(text, offset), f"U+{ord(char):04X}", "only characters that can be seen"
            )
        return None if refused else text

    def read(self, text: str, parser: Any) -> None:
        """All documents of the text; after a broken one, reading goes on where the next begins."""
        offset = lines = 0
        for _ in range(RESTARTS):
            pass_ = _Pass(self, text[offset:], lines)
            rest = pass_.run(parser)
            if rest is None:
                return
            lines += len(_BREAK.findall(text, offset, offset + rest))
            offset += rest
        self.note("TOO_MANY_ERRORS", (lines + 1, 1), f"{RESTARTS} broken documents", "documents that can be read")


class _Frame:
    """A map or list that is open. `key` is the key whose value comes next; None: a key comes next."""

    __slots__ = ("at", "items", "key", "step")

    def __init__(self, items: Map | Seq, step: str | int | None) -> None:
        self.items, self.step = items, step  # the step leads here from the map or list around
        self.key: str | Broken | None = None
        self.at: Position = (0, 0)  # of that key


class _Stop(Exception):
    """The file goes beyond a limit; the finding is made."""


class _Pass:
    """One run of the parser over a text that begins at line `lines` of its file."""

    def __init__(self, file: _File, text: str, lines: int) -> None:
        self.file, self.text, self.lines = file, text, lines
        self.frames: list[_Frame] = []
        self.root: Any = None
        self.begun: Position | None = None  # where the root of the open document stands
        self.whole = True
        self.ended = 0  # index at which the last document ended
        self.take: dict[type[events.Event], Any] = {
            events.ScalarEvent: self._scalar,
            events.MappingStartEvent: self._open,
            events.SequenceStartEvent: self._open,
            events.MappingEndEvent: self._close,
            events.SequenceEndEvent: self._close,
            events.AliasEvent: self._alias,
            events.DocumentStartEvent: self._begin,
            events.DocumentEndEvent: self._end,
        }

    def run(self, parser: Any) -> int | None:
        """None when all was read, else the index in the text at which to go on."""
        try:
            for event in self._events(parser):
                handler = self.take.get(type(event))
                if handler is not None:
                    handler(event)
        except _Stop:
            self._keep(whole=False)
        except yaml.YAMLError as error:
            return self._broken(error)
        return None

    def _events(self, parser: Any) -> Iterator[events.Event]:
        return iter(yaml.parse(self.text, Loader=parser))

    # -- nodes ------------------------------------------------------------------------------------------------------

    def _scalar(self, event: events.ScalarEvent) -> None:
        position = self._count(event)
        self._refuse_properties(event, position)
        frame = self.frames[-1] if self.frames else None
        if frame is not None and frame.key is None and type(frame.items) is Map:
            self._key(frame, event, position)
        else:
            self._put(self._value(event, position), position)

    def _value(self, event: events.ScalarEvent, position: Position) -> Any:
        text: str = event.value
        if not event.implicit[0]:  # quoted, a block, or tagged
            return self._checked(text, position) if event.style == '"' else text
        if text in _WORDS:
            return _WORDS[text]
        return self._number(text, position) if text[0] in _NUMBER_START else text

    def _number(self, text: str, position: Position) -> Any:
        if _INTEGER.fullmatch(text):
            return int(text) if len(text) <= DIGITS else self._too_long(position)
        if _FLOAT.fullmatch(text):
            return float(text) if len(text) <= 2 * DIGITS else self._too_long(position)
        return text

    def _too_long(self, position: Position) -> Broken:
        self._note("NUMBER_TOO_LONG", position, "a long number", f"at most {DIGITS} digits, or a text in quotes")
        return BROKEN

    def _checked(self, text: str, position: Position) -> str | Broken:
        """Escapes can bring in what the file itself may not hold."""
        unseen = _UNSEEN_IN_VALUE.search(text)
        if unseen is None:
            return text
        self._note("UNSEEN_CHARACTER", position, f"U+{ord(unseen[0]):04X}", "only characters that can be seen")
        return BROKEN

    def _key(self, frame: _Frame, event: events.ScalarEvent, position: Position) -> None:
        key = self._value(event, position)
        frame.key, frame.at = BROKEN, position
        if key == "<<" and event.implicit[0]:
            self._note("MERGE_KEY", position, "a merge key", "the keys themselves")
        elif not isinstance(key, str):
            if key is not BROKEN:
                self._note(
                    "KEY_NOT_TEXT", position, f"the key {shown(key, ())}", "a text; put it in quotes if it is meant"
                )
        elif key in frame.items:
            self._twice(key, frame.items, position)
        else:
            frame.key = key

    def _twice(self, key: str, items: Map | Seq, position: Position) -> None:
        first = items.at[key][0] if isinstance(items, Map) else 0
        found = f"the key {key_text(key, self._path())} a second time"
        self._note("KEY_TWICE", position, found, f"it once; it stands on line {first}")

    def _open(self, event: events.CollectionStartEvent) -> None:
        position = self._count(event)
        self._refuse_properties(event, position)
        items: Map | Seq = Map() if type(event) is events.MappingStartEvent else Seq()
        step = self._step()
        self._put(items, position)
        self.frames.append(_Frame(items, step))
        if len(self.frames) > DEPTH:
            self._note("TOO_DEEP", position, f"more than {DEPTH} levels", "documents that nest less")
            raise _Stop

    def _close(self, event: events.Event) -> None:
        self.frames.pop()

    def _alias(self, event: events.AliasEvent) -> None:
        position = self._count(event)
        self._note("ALIAS", position, f"the alias *{escaped(event.anchor or '', 40)}", "the value itself")
        self._put(BROKEN, position)

    def _put(self, value: Any, position: Position) -> None:
        """The value goes where it belongs: into the open map or list, or it is the root."""
        if not self.frames:
            self.root, self.begun = value, position
            return
        frame = self.frames[-1]
        items = frame.items
        if type(items) is Seq:
            items.append(value)
            items.at.append(position)
        elif frame.key is None:
            frame.key = BROKEN
            if value is not BROKEN:
                self._note("KEY_NOT_TEXT", position, f"the key {shown(value, ())}", "a text")
        else:
            if type(items) is Map and type(frame.key) is str:
                items[frame.key] = value
                items.at[frame.key] = frame.at + position
            frame.key = None

    def _refuse_properties(self, event: events.ScalarEvent | events.CollectionStartEvent, position: Position) -> None:
        if event.anchor is not None:
            self._note(
                "ANCHOR",
                position,
                f"the anchor &{escaped(event.anchor, 40)}",
                "no anchors: each value where it is used",
            )
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!", 1)
            self._note("TAG", position, f"the tag {escaped(tag, 40)}", "no tags: put a text in quotes")

    def _count(self, event: events.Event) -> Position:
        mark: Any = event.start_mark  # an event of a parser always has its marks
        position = (mark.line + self.lines + 1, mark.column + 1)
        self.file.nodes += 1
        if self.file.nodes > NODES:
            self._note("TOO_MANY_NODES", position, f"more than {NODES} nodes", "smaller files")
            raise _Stop
        return position

    # -- documents --------------------------------------------------------------------------------------------------

    def _begin(self, event: events.DocumentStartEvent) -> None:
        self.whole = True
        mark: Any = event.end_mark
        directive = _DIRECTIVE.search(self.text, self.ended, mark.index)
        if directive is not None:
            self._note(*self._refused_directive(directive.start()))

    def _end(self, event: events.DocumentEndEvent) -> None:
        mark: Any = event.end_mark
        self.ended = mark.index
        self._keep(whole=True)

    def _keep(self, *, whole: bool) -> None:
        """The document that was open, unless it is only space between two others."""
        root, position = self.root, self.begun
        self.root = self.begun = None
        self.frames.clear()
        if isinstance(root, Map) and position is not None:
            line, column = position
            self.file.documents.append(
                Document(file=self.file.name, line=line, column=column, content=root, whole=whole and self.whole)
            )
        elif whole and self.whole and root is not None and position is not None:
            found = "a list" if isinstance(root, Seq) else "a single value"
            self._note("NOT_A_MAP", position, found, "a map with apiVersion, kind and name")

    def _broken(self, error: yaml.YAMLError) -> int | None:
        """The text is no YAML from here on: say so, keep what was read, and answer where the next document begins."""
        mark = getattr(error, "problem_mark", None)
        index = mark.index if mark is not None else 0
        position = self._position(mark) if mark is not None else (self.lines + 1, 1)
        self._note(*self._syntax(error, index, position))
        open_at = self.ended
        self._keep(whole=False)
        starts = [found.start() for found in _DOCUMENT.finditer(self.text, max(index, open_at))]
        return next((start for start in starts if self.text[open_at:start].strip(" \t\r\n.")), None)

    def _syntax(self, error: yaml.YAMLError, index: int, position: Position) -> tuple[str, Position, str, str]:
        line = self.text[self._line_start(index) :]
        indent = line[: len(line) - len(line.lstrip(" \t"))]
        if line.startswith("%"):
            return self._refused_directive(index)
        if "\t" in indent:
            return "TAB", position, "a tab", "spaces: a tab cannot indent"
        problem = str(getattr(error, "problem", None) or "unreadable")
        hint = next((hint for words, hint in _HINTS if problem.startswith(words)), "well-formed YAML")
        return "NOT_YAML", position, f"no YAML: {escaped(problem)}{self._since(error)}", hint

    def _refused_directive(self, index: int) -> tuple[str, Position, str, str]:
        line, _ = _position(self.text, index)
        return "DIRECTIVE", (line + self.lines, 1), "a directive", "no directives: YAML 1.2 is read"

    def _since(self, error: yaml.YAMLError) -> str:
        context, mark = getattr(error, "context", None), getattr(error, "context_mark", None)
        if not context or mark is None or mark.line == getattr(error, "problem_mark", mark).line:
            return ""
        return f", {escaped(context)} that begins on line {mark.line + self.lines + 1}"

    def _line_start(self, index: int) -> int:
        return max(self.text.rfind("\n", 0, index), self.text.rfind("\r", 0, index)) + 1

    def _position(self, mark: Any) -> Position:
        return mark.line + self.lines + 1, mark.column + 1

    def _note(self, code: str, position: Position, found: str, expected: str) -> None:
        self.whole = False
        self.file.note(code, position, found, expected, self._path())

    def _path(self) -> Path:
        """From the root to where the pass stands."""
        steps = [frame.step for frame in self.frames[1:]] + [self._step()]
        return tuple(step for step in steps if step is not None)

    def _step(self) -> str | int | None:
        """The step from the innermost open map or list to the node that comes next; None where there is none."""
        if not self.frames:
            return None
        frame = self.frames[-1]
        if type(frame.items) is Seq:
            return len(frame.items)
        return frame.key if type(frame.key) is str else None


def _position(text: str, offset: int) -> Position:
    breaks = list(_BREAK.finditer(text, 0, offset))
    return len(breaks) + 1, offset - (breaks[-1].end() if breaks else 0) + 1
