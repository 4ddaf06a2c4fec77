"""The documents of a tree by what they declare: each name once, and which names could not be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from desired_state import schema, translation
from desired_state.document import BROKEN, Document
from desired_state.findings import Flaw, Notes, escaped, shown
from stickers.names import DEFAULT_PROJECT

S = TypeVar("S", bound=schema.Declaration, covariant=True)

Scoped = tuple[str, str]  # project and name

_KINDS: Final = f"one of {', '.join(schema.KINDS)}"


@dataclass(frozen=True, slots=True)
class Declared(Generic[S]):
    """What a document says, and the document, for what is found later. `whole` is False when something was found in it
    already: then it says less than was meant."""

    said: S
    document: Document
    whole: bool = True

    @property
    def scoped(self) -> Scoped:
        return self.said.project, _own_name(self.said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Declarations:
    """Everything that could be read. `unread` holds kind, project and name of what could not be read as it was meant,
    None for what is not even known of it: a reference to one of these is no mistake of whoever refers to it."""

    releases: dict[Scoped, Declared[schema.Release]] = field(default_factory=dict)
    environments: dict[Scoped, Declared[schema.Environment]] = field(default_factory=dict)
    targets: dict[Scoped, Declared[schema.Target]] = field(default_factory=dict)
    unread: set[tuple[str | None, str | None, str | None]] = field(default_factory=set)

    def may_be_unread(self, kind: str, scoped: Scoped) -> bool:
        return any((k, p, n) in self.unread for k in (kind, None) for p in (scoped[0], None) for n in (scoped[1], None))

    def any_unread(self, kind: str) -> bool:
        return any(found in (kind, None) for found, _, _ in self.unread)


def read(documents: Iterable[Document], notes: Notes) -> Declarations:
    """The documents as what they declare. In a tree with a name declared twice the first stands, by file and line."""
    declarations = Declarations()
    for document in sorted(documents, key=lambda document: (document.file, document.line)):
        said = _said(document, notes)
        whole = said is not None and document.whole
        if not whole:
            declarations.unread.update(_unread(document))
            said = _remainder(document)
        if said is not None:
            _enter(declarations, said, document, notes, whole=whole)
    return declarations


def _said(document: Document, notes: Notes) -> schema.Declaration | None:
    kind = document.content.get("kind")
    model = schema.KINDS.get(kind) if isinstance(kind, str) else None
    if model is not None:
        return translation.read(document, model, notes)
    if "kind" not in document.content:
        if document.whole:
            expected = f"the key kind: {_KINDS}"
            notes.add(document.finding(Flaw(code="KEY_MISSING", path=("kind",), found="nothing", expected=expected)))
    elif kind is not BROKEN:
        found, nearest = shown(kind, ("kind",)), notes.nearest(kind, schema.KINDS)
        flaw = Flaw(code="KIND_UNKNOWN", path=("kind",), found=found, expected=_KINDS, nearest=nearest)
        notes.add(document.finding(flaw))
    return None


def _remainder(document: Document) -> schema.Declaration | None:
    """What is left of a document with findings: of a release whole components, of others single fields of them."""
    kind = document.content.get("kind")
    model = schema.KINDS.get(kind) if isinstance(kind, str) else None
    return None if model is None else translation.remainder(document, model, 2 if model is schema.Release else 3)


def _enter(
    declarations: Declarations, said: schema.Declaration, document: Document, notes: Notes, *, whole: bool
) -> None:
    match said:
        case schema.Release():
            _once(declarations.releases, Declared(said, document, whole), notes)
        case schema.Environment():
            _once(declarations.environments, Declared(said, document, whole), notes)
        case schema.Target():
            _once(declarations.targets, Declared(said, document, whole), notes)


def _once(known: dict[Scoped, Declared[Any]], declared: Declared[Any], notes: Notes) -> None:
    first = known.setdefault(declared.scoped, declared)
    if first is not declared:
        changed = declared.said.kind == "Release" and first.whole and declared.whole and first.said != declared.said
        notes.add(declared.document.finding(_changed(declared, first) if changed else _again(declared, first)))


def _changed(declared: Declared[Any], first: Declared[Any]) -> Flaw:
    found = f"the release {escaped(declared.scoped[1])} with another content"
    expected = f"a new version: a release never changes; {_where(first)}"
    return Flaw(code="RELEASE_CHANGED", path=("version",), found=found, expected=expected)


def _again(declared: Declared[Any], first: Declared[Any]) -> Flaw:
    found = f"the {declared.said.kind.lower()} {escaped(declared.scoped[1])} a second time"
    return Flaw(
        code="DECLARED_TWICE", path=("name",), found=found, expected=f"one document of this name; {_where(first)}"
    )


def _where(first: Declared[Any]) -> str:
    return f"it is declared in {first.document.file} on line {first.document.line}"


def _own_name(said: schema.Declaration) -> str:
    return f"{said.name}@{said.version}" if isinstance(said, schema.Release) else said.name


def _unread(document: Document) -> Iterator[tuple[str | None, str | None, str | None]]:
    """What is known of a document that could not be read as it was meant; nothing, if that is nothing."""
    content: Mapping[str, Any] = document.content
    kind, name = _text(content.get("kind")), _text(content.get("name"))
    if kind not in schema.KINDS:
        if name is not None:
            yield None, None, name
        return
    if kind == "Release":
        version = _text(content.get("version"))
        name = f"{name}@{version}" if name and version else None
    yield kind, _text(content.get("project", str(DEFAULT_PROJECT))), name


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
