"""From a document to its model; what pydantic refuses becomes findings that point at the node in the file."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from desired_state.document import BROKEN, Document
from desired_state.findings import Flaw, Notes, Path, is_hidden, key_text, shown, some
from desired_state.scalars import BadReference
from desired_state.secrets import GRAMMARS
from stickers.names import InvalidName

M = TypeVar("M", bound=BaseModel)

EXTENSION: Final = "x-"  # keys that begin so are nobody's business

_WRONG_TYPE: Final = {
    "string_type": "a text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a map",
    "model_type": "a map",
    "model_attributes_type": "a map",
    "list_type": "a list",
    "none_required": "null",
}
_LIMITS: Final = {
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "greater_than": "more than {gt}",
    "less_than": "less than {lt}",
    "too_short": "at least {min_length}",
    "too_long": "at most {max_length}",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
}
_QUOTED: Final = re.compile(r"'([^']*)'")


def read(document: Document, model: type[M], notes: Notes, at: Path = ()) -> M | None:
    """The node at the path as the model says it should be; None when something was found."""
    node = document.value(at) if at else document.content
    errors: list[ErrorDetails] = []
    for _ in range(2):  # a second time without the extensions, if there are any
        try:
            return model.model_validate({} if node is None else node)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_input=False)
        extensions = [_steps(node, failed["loc"]) for failed in errors if _is_extension(failed)]
        if not extensions:
            break
        node = _without(node, extensions)
    translation = _Translation(document, model, notes, at)
    for failed in errors:
        translation.note(failed)
    return None


def remainder(document: Document, model: type[M], depth: int) -> M | None:
    """What a document in which something was found says beside that, so that the rest can be checked too. None when
    too little is left to know which document it is. What falls with a finding is a field, or below `components` what
    stands at the depth."""
    node: Any = document.content
    for _ in range(3):
        try:
            return model.model_validate(node)
        except ValidationError as error:
            paths = [_steps(node, failed["loc"]) for failed in error.errors(include_url=False, include_input=False)]
        parts = {path[: depth if path[:1] == ("components",) else 1] for path in paths}
        if not all(_stands(node, part) for part in parts):
            return None
        node = _without(node, sorted(parts, key=str))
    return None


def _stands(node: Any, path: Path) -> bool:
    for step in path:
        if not isinstance(node, dict) or step not in node:
            return False
        node = node[step]
    return bool(path)


def _is_extension(failed: ErrorDetails) -> bool:
    return failed["type"] == "extra_forbidden" and str(failed["loc"][-1]).startswith(EXTENSION)


def _without(node: Any, paths: list[Path]) -> Any:
    """A copy of the node without what stands at the paths."""
    below: dict[str | int, list[Path]] = {}
    for path in paths:
        below.setdefault(path[0], []).append(path[1:])
    items = node.items() if isinstance(node, dict) else enumerate(node)
    kept = {
        key: _without(item, below[key]) if key in below else item for key, item in items if () not in below.get(key, ())
    }
    return kept if isinstance(node, dict) else list(kept.values())


def _steps(node: Any, loc: tuple[str | int, ...]) -> Path:
    """The path in the document: a `loc` without the names of union members, which stand in angle brackets."""
    steps: list[str | int] = []
    for step in loc:
        inside = (isinstance(node, dict) and step in node) or (isinstance(node, list) and isinstance(step, int))
        if inside or not _is_mark(step):
            steps.append(step)
            node = node[step] if inside else None
    return tuple(steps)


def _is_mark(step: str | int) -> bool:
    return isinstance(step, str) and (step.startswith("<") or step == "[key]")


class _Translation:
    """The errors of one node of one document."""

    def __init__(self, document: Document, model: type[BaseModel], notes: Notes, at: Path) -> None:
        self.document, self.model, self.notes, self.at = document, model, notes, at

    def note(self, failed: ErrorDetails) -> None:
        path = self.at + _steps(self.document.value(self.at), failed["loc"])
        value = self.document.value(path)
        if value is BROKEN or (failed["type"] in ("missing", "too_short") and not self.document.whole):
            return  # found already, or it may stand where nothing could be read
        self.notes.add(self.document.finding(self._flaw(failed, path, value)))

    def _flaw(self, failed: ErrorDetails, path: Path, value: object) -> Flaw:
        loc = failed["loc"]
        if failed["type"] == "missing":
            expected = self._expected_at(loc, path)
            return Flaw(code="KEY_MISSING", path=path, found="nothing", expected=expected)
        if failed["type"] == "extra_forbidden":
            return self._unknown(loc, path)
        code, expected = self._rule(failed)
        if loc and loc[-1] == "[key]":
            found = f"the key {key_text(str(path[-1]), path[:-1])}"
            return Flaw(code=code, path=path, found=found, expected=expected, key=True)
        known = _QUOTED.findall(str(failed.get("ctx", {}).get("expected", "")))
        nearest = self.notes.nearest(value, known) if len(known) > 1 else self._backend(failed)
        expected = "another value" if code == "BAD_VALUE" and is_hidden(path) else expected + _quotes(failed, value)
        return Flaw(code=code, path=path, found=shown(value, path), expected=expected, nearest=nearest)

    def _backend(self, failed: ErrorDetails) -> str | None:
        """The backend of secrets that was probably meant; nothing else of a reference is compared or shown."""
        cause = failed.get("ctx", {}).get("error")
        if not isinstance(cause, BadReference) or cause.backend in GRAMMARS:
            return None
        return self.notes.nearest(cause.backend, GRAMMARS)

    def _unknown(self, loc: tuple[str | int, ...], path: Path) -> Flaw:
        key, known = str(path[-1]), sorted(known_keys(self.model, loc[:-1]))
        return Flaw(
            code="KEY_UNKNOWN",
            path=path,
            found=f"the unknown key {key_text(key, path[:-1])}",
            expected=f"one of {some(known)}" if known else "an empty map",
            nearest=self.notes.nearest(key, known),
            key=True,
        )

    def _rule(self, failed: ErrorDetails) -> tuple[str, str]:
        """The code of what was broken, and what would be right."""
        kind, ctx = failed["type"], failed.get("ctx", {})
        cause = ctx.get("error")
        if isinstance(cause, InvalidName):
            return "BAD_" + cause.what.upper().replace(" ", "_"), cause.expected
        if kind in _WRONG_TYPE:
            return "WRONG_TYPE", _WRONG_TYPE[kind]
        if kind in _LIMITS:
            return "OUT_OF_RANGE", _LIMITS[kind].format_map(ctx)
        if kind in ("literal_error", "enum"):
            return "WORD_UNKNOWN", _one_of(str(ctx.get("expected", "")))
        text = str(cause) if kind in ("value_error", "assertion_error") else failed["msg"]
        return "BAD_VALUE", text.removeprefix("expected ")

    def _expected_at(self, loc: tuple[str | int, ...], path: Path) -> str:
        for model in _models_at(self.model, loc[:-1]):
            field = next((field for key, field in _fields(model) if key == path[-1]), None)
            if field is not None and field.description:
                return f"the key {path[-1]}: {field.description}"
        return f"the key {path[-1]}"


def _quotes(failed: ErrorDetails, value: object) -> str:
    """A number where a text belongs was mostly meant as one."""
    plain = isinstance(value, int | float) or value is None
    return "; put it in quotes if it is meant as one" if failed["type"] == "string_type" and plain else ""


def _one_of(expected: str) -> str:
    words = _QUOTED.findall(expected)
    return f"one of {', '.join(words)}" if len(words) > 1 else words[0] if words else expected


def known_keys(model: type[BaseModel], loc: tuple[str | int, ...]) -> set[str]:
    """The keys that may stand at this place of the model."""
    return {key for found in _models_at(model, loc) for key, _ in _fields(found)}


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    return ((field.alias or name, field) for name, field in model.model_fields.items())


def _models_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[type[BaseModel]]:
    kinds: list[Any] = [model]
    for step in loc:
        if not _is_mark(step):
            kinds = [inner for kind in kinds for inner in _inside(kind, step)]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _inside(kind: Any, step: str | int) -> Iterator[Any]:
    """What the value below the step may be."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        found = [field.annotation for key, field in _fields(kind) if key == step]
    else:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        is_map = isinstance(origin, type) and issubclass(origin, Mapping)
        found = list(arguments[1:] if is_map else arguments[:1])
    return (member for annotation in found for member in _members(annotation))


def _members(annotation: Any) -> Iterator[Any]:
    """What an annotation may stand for: itself, or the members of the union it is."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _members(typing.get_args(annotation)[0])
    elif origin is typing.Union or origin is types.UnionType:
        for member in typing.get_args(annotation):
            yield from _members(member)
    else:
        yield annotation
