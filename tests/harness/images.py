"""Container images for tests, made of a static busybox and a few lines of shell, and pushed by content.

Every image serves HTTP on port 8080 (`PORT` moves it): `/` is its version, `/cgi-bin/health` its health, and
`/cgi-bin/slow` an answer that takes its time.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from drivers.oci import manifest
from stickers import digest
from stickers.names import Artifact, Digest

BUSYBOX: Final = Path("/bin/busybox")
REPOSITORY: Final = "holdfast/app"

SERVE: Final = """#!/bin/busybox sh
echo "version {version} starts"
{before}
exec /bin/busybox httpd -f -p "${{PORT:-8080}}" -h /www
"""
HEALTH: Final = """#!/bin/busybox sh
printf 'Status: {health} Spoken\\r\\nContent-Type: text/plain\\r\\n\\r\\n{version}\\n'
"""
SLOW: Final = """#!/bin/busybox sh
/bin/busybox sleep 0.4
printf 'Content-Type: text/plain\\r\\n\\r\\n{version}\\n'
"""


@dataclass(frozen=True, kw_only=True)
class App:
    """What an image does. `before` is shell that runs before it serves; `config` is merged into the image's own."""

    version: str
    health: int = 200
    before: str = ""
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def files(self) -> dict[str, bytes]:
        words = {"version": self.version, "health": self.health, "before": self.before}
        texts = {
            "serve": SERVE,
            "www/index.html": "{version}\n",
            "www/cgi-bin/health": HEALTH,
            "www/cgi-bin/slow": SLOW,
        }
        return {path: text.format(**words).encode() for path, text in texts.items()}


ONE: Final = App(version="one")
TWO: Final = App(version="two")
THREE: Final = App(version="three")
BAD: Final = App(version="bad", health=500)  # serves, and says that it is not well
CRASHING: Final = App(version="crashing", before="exit 3")
LATE: Final = App(version="late", before="/bin/busybox sleep 1")


@dataclass(frozen=True)
class Blob:
    media_type: str
    content: bytes

    @property
    def digest(self) -> Digest:
        return digest.of_bytes(self.content)

    def plain(self) -> dict[str, object]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.content)}


def pushed(registry: str, app: App, repository: str = REPOSITORY, *, login: str | None = None) -> Artifact:
    """The image, in the registry at `registry` (``host:port``); what is there already is not sent again. `login` is
    ``user:password``."""
    blobs, image = built(app)
    send = partial(_send, login)
    for blob in blobs:
        _push_blob(send, f"http://{registry}/v2/{repository}/blobs", blob)
    send("PUT", f"http://{registry}/v2/{repository}/manifests/{image.digest}", image.content, image.media_type)
    return Artifact(f"{registry}/{repository}", image.digest)


@cache
def built(app: App) -> tuple[tuple[Blob, ...], Blob]:
    """The image's blobs and its manifest; the same app gives the same digests."""
    layers = (_busybox(), _layer(app.files))
    config = {
        "architecture": manifest.this_machine().architecture,
        "os": "linux",
        "config": {"Entrypoint": ["/serve"], "Env": ["PATH=/bin"], "WorkingDir": "/", **app.config},
        "rootfs": {"type": "layers", "diff_ids": [plain for plain, _ in layers]},
    }
    described = Blob(manifest.CONFIG, json.dumps(config, sort_keys=True).encode())
    body = {
        "schemaVersion": 2,
        "mediaType": manifest.MANIFEST,
        "config": described.plain(),
        "layers": [layer.plain() for _, layer in layers],
    }
    return (*(layer for _, layer in layers), described), Blob(
        manifest.MANIFEST, json.dumps(body, sort_keys=True).encode()
    )


@cache
def _busybox() -> tuple[Digest, Blob]:
    """Packed once: it takes 30 ms, and every image has it."""
    return _layer({"bin/busybox": BUSYBOX.read_bytes()})


def _layer(files: Mapping[str, bytes]) -> tuple[Digest, Blob]:
    """The digest of the plain layer, and the layer as it is sent."""
    tar = _tar(files)
    return digest.of_bytes(tar), Blob(f"{manifest.LAYER}+gzip", gzip.compress(tar, 1, mtime=0))


def _tar(files: Mapping[str, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for path, content in sorted(files.items()):
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    return written.getvalue()


def _push_blob(send: Callable[..., str], place: str, blob: Blob) -> None:
    try:
        send("HEAD", f"{place}/{blob.digest}")
    except urllib.error.HTTPError as error:
        error.close()
        upload = send("POST", f"{place}/uploads/?mount={blob.digest}&from={REPOSITORY}", b"")
        if "/uploads/" in upload:  # it is not in the other repository
            mark = "&" if "?" in upload else "?"
            send("PUT", f"{upload}{mark}digest={blob.digest}", blob.content, "application/octet-stream")


def _send(login: str | None, method: str, url: str, content: bytes | None = None, media_type: str | None = None) -> str:
    """The address the registry answers with, for an upload."""
    headers = {"Content-Type": media_type} if media_type else {}
    headers |= {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}
    request = urllib.request.Request(url, data=content, method=method, headers=headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
        return str(answer.headers.get("Location", ""))
