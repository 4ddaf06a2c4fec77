"""The files of a compose project: the template as it was understood, the lock, and which variables the lock asks for.

A lock that was kept is read again piece by piece, so that what was proven goes back in the words it was proven in,
whatever this version would say today.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from desired_state.model import Placement
from desired_state.secrets import SecretRef
from drivers.compose import lock
from drivers.compose.lock import Piece, Place
from drivers.compose.template import Part
from drivers.contract import Rendered, RenderedKind
from drivers.errors import InvalidAction
from drivers.rendered import secret

YAML = "application/yaml"


def piece(place: Place, placement: Placement, kept: Iterable[Rendered] = ()) -> Piece:
    """What compose is told of the placement: in the words that were kept of this content, else in those of today."""
    text = placement.configuration.template
    if text is None:
        raise InvalidAction(f"{placement.id}: connection.template says nothing of it")
    for file in kept:
        if file.kind is RenderedKind.COMPOSE_LOCK and placement.id in file.of:
            found = lock.unlocked(file.text, place, placement)
            if found is not None:
                return found
    try:
        return lock.piece(place, placement, Part.read(text))
    except ValueError as error:
        raise InvalidAction(f"{placement.id}: its template cannot be read: {error}") from None


def rendered(place: Place, placements: Sequence[Placement], kept: Sequence[Rendered]) -> tuple[Rendered, ...]:
    pieces = [piece(place, each, kept) for each in placements]
    of = tuple(each.id for each in placements)
    try:
        locked = lock.lock(place, pieces).decode()
    except lock.Clash as error:
        raise InvalidAction(f"{place.target}: {error}") from None
    files = [
        Rendered(
            kind=RenderedKind.COMPOSE_FILE, name="compose.yaml", media_type=YAML, text=_template(placements), of=of
        ),
        Rendered(kind=RenderedKind.COMPOSE_LOCK, name="lock.yaml", media_type=YAML, text=locked, of=of),
    ]
    asked = {name: reference for each in pieces for name, reference in each.secrets.items()}
    asked |= {f"{each.folder}/{name}": reference for each in pieces for name, reference in each.files.items()}
    if asked:
        text = _variables(asked)
        files.append(Rendered(kind=RenderedKind.ENV_FILE, name="lock.env", media_type="text/plain", text=text, of=of))
    return tuple(files)


def _template(placements: Iterable[Placement]) -> str:
    """The services of the target's template that run there."""
    whole: dict[str, Any] = {"services": {}, "networks": {}, "volumes": {}}
    for placement in placements:
        part = Part.read(placement.configuration.template or "").model_dump(mode="json", exclude_defaults=True)
        whole["services"][lock.service_name(placement.id)] = part["service"]
        for shared in ("networks", "volumes"):
            whole[shared] |= part.get(shared, {})
    head = "# The template of this target as Holdfast understood it; lock.yaml is what compose is told.\n"
    return head + lock.yaml({name: said for name, said in whole.items() if said})


def _variables(asked: dict[str, SecretRef]) -> str:
    head = "# What lock.yaml asks for. A secret stands here as its reference, never as its value.\n"
    return head + "".join(f"# {name} is {secret(reference)}\n" for name, reference in sorted(asked.items()))
