"""How a host with systemd is reached, and where its releases come from, as a target's document says it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from drivers.process.connection import Connection as PlainHost
from drivers.process.connection import absolute_directory
from drivers.systemd import unit


def _named_by_units(text: str) -> str:
    return unit.plain(absolute_directory(text))


class Connection(PlainHost):
    """A plain host whose root is named in units."""

    root: Annotated[str, AfterValidator(_named_by_units)] = Field(
        description="absolute directory on the target that belongs to this target alone; letters, digits and /._@+,:=-"
    )
