"""Files that are rendered alike for every runtime: a component's variables, and what a proxy before it is told. Pure.

What stands in a file is declared, or a secret's reference; no value of a secret comes in here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Final

from desired_state.model import Placement
from desired_state.secrets import SecretRef
from drivers.contract import Rendered, RenderedKind
from drivers.errors import InvalidAction
from stickers.names import LIVE, PlacementId

_MEANT: Final = re.compile(r'([\\"`$])')


def env_files(placements: Iterable[Placement]) -> tuple[Rendered, ...]:
    """The declared variables of each component that has any."""
    return tuple(_env_file(each) for each in placements if each.configuration.environment)


def _env_file(placement: Placement) -> Rendered:
    return Rendered(
        kind=RenderedKind.ENV_FILE,
        name=f"{stem(placement.id)}.env",
        media_type="text/plain",
        text="".join(_variables(placement)),
        of=(placement.id,),
    )


def stem(id: PlacementId) -> str:
    """What files of the placement are named after."""
    return str(id.component) if id.slot == LIVE else f"{id.component}.{id.slot}"


def _variables(placement: Placement) -> Iterator[str]:
    yield f"# Variables of {placement.id.component}. A secret stands here as its reference, never as its value.\n"
    for name, value in placement.configuration.environment:
        if isinstance(value, SecretRef):
            yield f"# {name} is {secret(value)}\n"
        elif "\0" in value:
            raise InvalidAction(f"{placement.id}: environment {name[:40]}: its value contains NUL")
        else:
            yield f'{name}="{_MEANT.sub(_escaped, value)}"\n'


def _escaped(found: re.Match[str]) -> str:
    return "\\" + found[0]


def secret(reference: SecretRef) -> str:
    """A secret in one line, as it is declared."""
    version = f", version {json.dumps(reference.version)}" if reference.version is not None else ""
    return f"the secret {json.dumps(reference.reference)}{version}"
