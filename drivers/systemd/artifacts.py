"""The unit of a release as it can be said before its target is asked. Pure.

Two things only the target knows: whether the first word of the command is a program of its own, and which units of
former releases have to end first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from desired_state.model import Placement
from desired_state.secrets import SecretRef
from drivers.contract import Rendered, RenderedKind
from drivers.errors import InvalidAction
from drivers.process import render
from drivers.systemd import unit
from drivers.systemd.unit import Marks, Paths, Unfit
from stickers import digest
from stickers.names import Digest, InstallationId

SECRETS: Final = "/run/holdfast"
NOTE: Final = (
    "# As it is before the target is asked, which adds what it alone knows: where the program is that its first word\n"
    "# names, when it is none of the release, and in Conflicts= and After= the units that have to end first.\n"
)


def units(placements: Sequence[Placement], installation: InstallationId, root: str) -> Iterator[Rendered]:
    """One for each component that declares its command; what an image says of its own is known when it is brought."""
    for placement in placements:
        if placement.configuration.command:
            yield _unit(placement, installation, root)


def _unit(placement: Placement, installation: InstallationId, root: str) -> Rendered:
    folder, declared = render.folder(placement.id), placement.configuration
    place = f"{root.rstrip('/')}/{installation}/{folder}"
    name = f"{digest.short(placement.artifact.digest)}-{digest.short(Digest(placement.configuration_digest))}"
    release, tag, command = f"{place}/releases/{name}", unit.tag(place), declared.command or ()
    marks = Marks(
        installation=str(installation),
        target=str(placement.id.target),
        component=str(placement.id.component),
        slot=str(placement.id.slot),
        artifact=str(placement.artifact),
        configuration=placement.configuration_digest,
        release=release,
    )
    paths = Paths(
        program=f"{release}/tree/{command[0].lstrip('/')}",
        tree=f"{release}/tree",
        environment=f"{release}/environment",
        secrets=f"{SECRETS}/{tag}/{name}" if _needs_secrets(placement) else None,
        files=f"{SECRETS}/{tag}/{name}.files",
    )
    try:
        text = unit.unit(marks, paths, command, render.document(declared))
    except Unfit as error:
        raise InvalidAction(f"{placement.id}: {error}") from None
    return Rendered(
        kind=RenderedKind.SYSTEMD_UNIT,
        name=unit.unit_name(folder, tag, name),
        media_type="text/plain",
        text=NOTE + text,
        of=(placement.id,),
    )


def _needs_secrets(placement: Placement) -> bool:
    declared = placement.configuration
    return bool(declared.secrets) or any(isinstance(value, SecretRef) for _, value in declared.environment)
