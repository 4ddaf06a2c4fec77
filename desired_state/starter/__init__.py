"""The tree of documents a newcomer begins with: small, commented, and without a finding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable


def starter() -> Mapping[str, bytes]:
    """Relative path -> content."""
    return dict(sorted(_below(files(__name__) / "tree", "")))


def _below(directory: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in directory.iterdir():
        if entry.is_dir():
            yield from _below(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry.read_bytes()
