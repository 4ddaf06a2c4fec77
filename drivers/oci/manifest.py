"""What OCI manifests, indexes and image configurations say; Docker's media types mean the same. Bytes in, records out.

Everything read here was written by somebody else: what is not understood is `Refused`, never guessed.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from drivers.errors import Refused
from stickers import digest, names
from stickers.names import Digest

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX: Final = "application/vnd.oci.image.index.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
MANIFESTS: Final = (MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")
INDEXES: Final = (INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
ACCEPT: Final = ", ".join((*MANIFESTS, *INDEXES))
LAYERS: Final = (
    LAYER,
    LAYER + "+gzip",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
)

MAX_DOCUMENT: Final = 4 * 1024 * 1024  # bytes of a manifest, index or configuration, as registries limit them
MAX_BLOB: Final = 16 * 1024**3
MAX_LAYERS: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    os: str
    architecture: str

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}"


_MACHINES: Final = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def this_machine() -> Platform:
    """The platform whose programs run here."""
    return machine_of(platform.machine())


def machine_of(kernel: str) -> Platform:
    """The platform of a Linux host whose kernel calls its machine so."""
    return Platform(os="linux", architecture=_MACHINES.get(kernel, kernel))


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A blob by content: what it is, its digest and its exact size."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    name: str | None = None  # as listed in a layout

    def plain(self) -> dict[str, object]:
        annotations = {"annotations": {REF_NAME: self.name}} if self.name else {}
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size} | annotations


REF_NAME: Final = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One image for one platform."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """The same image for several platforms, or the images of a layout."""

    manifests: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """How the image itself says it is started; all of it may be empty."""

    argv: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    directory: str = ""


def read(content: bytes) -> Manifest | Index:
    """The manifest or index in these bytes."""
    body = _object(content, "manifest")
    kind = body.get("mediaType")
    if ("layers" in body) == ("manifests" in body):
        raise Refused(f"not an image manifest or index: media type {_shown(kind)}")
    if "layers" in body:
        _expect(kind, MANIFESTS, "manifest")
        return Manifest(config=_descriptor(body.get("config")), layers=_layers(body["layers"]))
    _expect(kind, INDEXES, "index")
    return Index(manifests=tuple(_descriptor(item) for item in _list(body["manifests"], "manifests")))


def choose(index: Index, wanted: Platform) -> Descriptor:
    """The manifest of the index for the wanted platform; `Refused` names those there are."""
    images = [item for item in index.manifests if item.media_type in MANIFESTS]
    for item in images:
        if item.platform == wanted:
            return item
    if len(images) == 1 and images[0].platform is None:
        return images[0]
    offered = ", ".join(sorted({str(item.platform) for item in images if item.platform})) or "none"
    raise Refused(f"the index has no manifest for {wanted}; it has {offered[:200]}")


def read_config(content: bytes) -> ImageConfig:
    """What the image's configuration says about starting it. A configuration of another kind says nothing."""
    inner = _object(content, "image configuration").get("config") or {}
    if not isinstance(inner, dict):
        raise Refused("the image configuration is not an object")
    argv = (*_texts(inner.get("Entrypoint"), "Entrypoint"), *_texts(inner.get("Cmd"), "Cmd"))
    pairs = (item.partition("=") for item in _texts(inner.get("Env"), "Env"))
    directory = inner.get("WorkingDir") or ""
    if not isinstance(directory, str):
        raise Refused("WorkingDir of the image configuration is not a text")
    return ImageConfig(argv=argv, environment=tuple((name, value) for name, _, value in pairs), directory=directory)


class Verifier:
    """Counts and hashes a blob as it passes; what is longer, shorter or other than described is `Refused`."""

    def __init__(self, expected: Descriptor) -> None:
        self.expected = expected
        self._running = digest.Running()

    def feed(self, piece: bytes) -> None:
        self._running.update(piece)
        if self._running.size > self.expected.size:
            raise Refused(f"blob {self.expected.digest} is longer than the {self.expected.size} bytes described")

    def finish(self) -> None:
        if self._running.size != self.expected.size:
            raise Refused(
                f"blob {self.expected.digest} ends after {self._running.size} of {self.expected.size} bytes described"
            )
        if self._running.digest != self.expected.digest:
            raise Refused(f"blob {self.expected.digest} has other content: {self._running.digest}")


def _object(content: bytes, what: str) -> dict[str, Any]:
    if len(content) > MAX_DOCUMENT:
        raise Refused(f"the {what} has {len(content)} bytes, at most {MAX_DOCUMENT} are read")
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise Refused(f"the {what} is not JSON") from None
    if not isinstance(body, dict):
        raise Refused(f"the {what} is not a JSON object")
    return body


def _layers(items: object) -> tuple[Descriptor, ...]:
    layers = tuple(_descriptor(item) for item in _list(items, "layers"))
    if len(layers) > MAX_LAYERS:
        raise Refused(f"the manifest has {len(layers)} layers, at most {MAX_LAYERS} are read")
    return layers


def _descriptor(item: object) -> Descriptor:
    if not isinstance(item, dict):
        raise Refused("a descriptor in the manifest is not an object")
    kind, size, text = item.get("mediaType"), item.get("size"), item.get("digest")
    if not isinstance(kind, str) or not isinstance(text, str):
        raise Refused("a descriptor in the manifest lacks its media type or digest")
    if type(size) is not int or not 0 <= size <= MAX_BLOB:
        raise Refused(f"a descriptor in the manifest has the size {_shown(size)}; at most {MAX_BLOB} bytes are read")
    try:
        content = names.digest(text)
    except names.InvalidName as error:
        raise Refused(str(error)) from None
    return Descriptor(
        media_type=kind, digest=content, size=size, platform=_platform(item.get("platform")), name=_name(item)
    )


def _platform(item: object) -> Platform | None:
    if not isinstance(item, dict):
        return None
    return Platform(os=str(item.get("os")), architecture=str(item.get("architecture")))


def _name(item: Mapping[str, object]) -> str | None:
    annotations = item.get("annotations")
    name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else None


def _expect(kind: object, known: tuple[str, ...], what: str) -> None:
    if kind is not None and kind not in known:
        raise Refused(f"an {what} of media type {_shown(kind)} is not read")


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise Refused(f"{what} of the manifest is not a list")
    return value


def _texts(value: object, what: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Refused(f"{what} of the image configuration is not a list of texts")
    return tuple(value)


def _shown(value: object) -> str:
    return repr(value)[:80]
