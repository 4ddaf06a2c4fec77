"""The one file of settings: read as strictly as the documents, with findings that say where and what would be right.

apiVersion: holdfast/v1
kind: Settings
state: /var/lib/holdfast
listen: 127.0.0.1:8420
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from api.settings import FILE, MEANINGS, BadSetting, expected, meant
from desired_state import strict
from desired_state.document import BROKEN, Document
from desired_state.findings import Flaw, Notes, key_text, shown

HEAD: Final = {"apiVersion": "holdfast/v1", "kind": "Settings"}
SHOWN: Final = 20


def read(path: Path) -> dict[str, tuple[object, str]]:
    """Each setting that stands there, with its value and where that is. Raises `BadSetting` with every finding."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadSetting(f"the file of settings, {path}, cannot be read: {error.strerror}") from None
    notes = Notes()
    documents = strict.read(str(path), content, notes)
    for document in documents:
        for flaw in _flaws(document, notes):
            notes.add(document.finding(flaw))
    for document in documents[1:]:
        notes.add(document.finding(Flaw(code="TWO_DOCUMENTS", path=(), found="a second document", expected="one")))
    if findings := notes.sorted():
        raise BadSetting("; ".join(map(str, findings[:SHOWN])), findings)
    if not documents:
        raise BadSetting(f"{path}:1:1: found nothing; expected a map with apiVersion and kind")
    return dict(_said(path, documents[0]))


def _said(path: Path, document: Document) -> Iterator[tuple[str, tuple[object, str]]]:
    for name, value in document.content.items():
        if name in MEANINGS:
            yield name, (meant(name, value), f"{path}:{document.content.at[name][0]}")


def _flaws(document: Document, notes: Notes) -> Iterator[Flaw]:
    for name, value in HEAD.items():
        if name not in document.content and document.whole:
            yield Flaw(code="KEY_MISSING", path=(name,), found="nothing", expected=value)
    for name, value in document.content.items():
        if value is not BROKEN:
            yield from _flaw(name, value, notes)


def _flaw(name: str, value: object, notes: Notes) -> Iterator[Flaw]:
    path = (name,)
    if name in HEAD:
        if value != HEAD[name]:
            yield Flaw(code="BAD_VALUE", path=path, found=shown(value, path), expected=HEAD[name])
    elif name not in MEANINGS:
        nearest = notes.nearest(name, MEANINGS)
        rule = "a setting" if name != "settings" else f"no other file: this one is named by {FILE} or --settings"
        found = f"the key {key_text(name, ())}"
        yield Flaw(code="KEY_UNKNOWN", path=path, found=found, expected=rule, nearest=nearest, key=True)
    else:
        try:
            meant(name, value)
        except ValueError:
            yield Flaw(code="BAD_VALUE", path=path, found=shown(value, path), expected=expected(name))
