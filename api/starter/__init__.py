"""The files a newcomer may want beside the documents: settings, sources and notices, each commented. They end in
`.example`, so that the loader of the documents passes them over."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Final

SUFFIX: Final = ".example"


def beside() -> Mapping[str, bytes]:
    """Name -> content."""
    from api.cli.settings import commented

    found = {entry.name: entry.read_bytes() for entry in files(__name__).iterdir() if entry.name.endswith(SUFFIX)}
    return dict(sorted({**found, f"settings.yaml{SUFFIX}": commented().encode()}.items()))
