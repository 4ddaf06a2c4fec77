"""Where an artifact's verified bytes come from: an image layout, a tar of one, or the registry of its repository."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.from_thread
import anyio.to_thread

from drivers.errors import Refused
from drivers.oci import layout, manifest
from drivers.oci.layout import Layout, Resolved
from drivers.oci.manifest import LAYERS, ImageConfig, Platform
from stickers.names import Artifact, Digest

if TYPE_CHECKING:
    from drivers.oci.registry import Access


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """An artifact's bytes for one platform, each hashed. `artifact` is what was asked for, `manifest` the digest of the
    platform's own manifest, the same unless an index was asked for. `layers` are files, lowest first, as
    `drivers.oci.unpack` takes them."""

    artifact: Artifact
    manifest: Digest
    config: ImageConfig
    layers: tuple[Path, ...]


async def fetch(
    artifact: Artifact, source: str, into: Path, access: Access | None = None, machine: Platform | None = None
) -> Fetched:
    """Bring the artifact's layers for the machine, this one where none is said, into an empty directory.

    `source` is ``oci:`` and the path of a layout, ``tar:`` and the path of a tar of one, or ``registry``, spoken to as
    `access` says. Raises `Refused` or `Unreachable`; the files of a failed fetch are taken away again.
    """
    kind, _, path = source.partition(":")
    wanted = machine or manifest.this_machine()
    try:
        match kind:
            case "oci":
                return await _from_layout(artifact, partial(layout.directory, Path(path)), into, wanted)
            case "tar":
                return await _from_layout(artifact, partial(layout.archive, Path(path)), into, wanted)
            case "registry":
                return await _from_registry(artifact, into, access, wanted)
    except OSError as error:
        raise Refused(f"{artifact} cannot be brought to {into}: {error}") from None
    raise Refused(f"{source[:80]!r} is no source of artifacts; expected oci:/path, tar:/path or registry")


async def _from_layout(artifact: Artifact, opened: Callable[[], Layout], into: Path, machine: Platform) -> Fetched:
    return await anyio.to_thread.run_sync(partial(_copy, artifact, opened, into, machine))


def _copy(artifact: Artifact, opened: Callable[[], Layout], into: Path, machine: Platform) -> Fetched:
    images = opened()
    found = images.resolve(artifact.digest, machine)
    config = manifest.read_config(images.read(found.manifest.config.digest))
    fetched = _fetched(artifact, found, config, into)
    try:
        for blob, path in zip(found.manifest.layers, fetched.layers, strict=True):
            images.copy(blob, path, anyio.from_thread.check_cancelled)
    except BaseException:
        _take_away(fetched)
        raise
    return fetched


async def _from_registry(artifact: Artifact, into: Path, access: Access | None, machine: Platform) -> Fetched:
    from drivers.oci.registry import Registry  # 140 ms, only where a registry is asked

    async with Registry(artifact.repository, access) as registry:
        found = await registry.resolve(artifact.digest, machine)
        config = manifest.read_config(await registry.read(found.manifest.config))
        fetched = _fetched(artifact, found, config, into)
        try:
            for blob, path in zip(found.manifest.layers, fetched.layers, strict=True):
                await registry.copy(blob, path)
        except BaseException:
            _take_away(fetched)
            raise
        return fetched


def _fetched(artifact: Artifact, found: Resolved, config: ImageConfig, into: Path) -> Fetched:
    for blob in found.manifest.layers:
        if blob.media_type not in LAYERS:
            raise Refused(f"{artifact} has a layer of media type {blob.media_type[:80]!r}, which is not read")
    paths = tuple(into / f"layer-{number:03d}" for number in range(len(found.manifest.layers)))
    return Fetched(artifact=artifact, manifest=found.digest, config=config, layers=paths)


def _take_away(fetched: Fetched) -> None:
    for path in fetched.layers:
        with suppress(FileNotFoundError):
            path.unlink()
