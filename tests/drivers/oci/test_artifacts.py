"""The bytes of an artifact come verified from wherever they come."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import anyio
import pytest

from drivers.errors import Refused
from drivers.oci import artifacts, layout, manifest
from drivers.oci.registry import Registry
from drivers.oci.unpack import unpack
from stickers import digest, names
from stickers.names import Artifact, Digest
from tests.harness import registry as harness


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A layout with one image; an empty directory stands beside it."""
    (tmp_path / "source").mkdir()
    (tmp_path / "into").mkdir()
    (tmp_path / "source" / "serve.py").write_text("print('hello')\n")
    layout.pack(tmp_path / "source", tmp_path / "images", argv=("python3", "serve.py"))
    return tmp_path / "images"


def _packed(images: Path) -> Digest:
    return layout.directory(images).images()[0].digest


def _tarred(images: Path) -> Path:
    with tarfile.open(images.with_suffix(".tar"), "w") as tar:
        tar.add(images, ".")
    return images.with_suffix(".tar")


@pytest.mark.parametrize("kind", ["oci", "tar", "registry"])
async def test_every_source_gives_the_same_bytes(images: Path, tmp_path: Path, kind: str) -> None:
    packed = _packed(images)
    source = {"oci": f"oci:{images}", "tar": f"tar:{_tarred(images)}", "registry": "registry"}[kind]
    try:
        with harness.given_or_running() as address:
            artifact = Artifact(f"{address}/tests/artifacts", packed)
            if kind == "registry":
                async with Registry(artifact.repository) as registry:
                    await registry.push(layout.directory(images), packed)
            fetched = await artifacts.fetch(artifact, source, tmp_path / "into")
    except harness.NoRegistry as reason:
        pytest.skip(str(reason))
    unpack(fetched.layers, tmp_path / "root")
    assert (tmp_path / "root" / "serve.py").read_text() == "print('hello')\n"
    assert (fetched.artifact, fetched.manifest) == (artifact, packed)
    assert fetched.config.argv == ("python3", "serve.py")


async def test_a_changed_layer_is_refused_and_nothing_is_left(images: Path, tmp_path: Path) -> None:
    packed = _packed(images)
    layer = layout.directory(images).resolve(packed, manifest.this_machine()).manifest.layers[0]
    (images / "blobs" / "sha256" / layer.digest.removeprefix("sha256:")).write_bytes(b"x" * layer.size)
    with pytest.raises(Refused, match="has other content"):
        await artifacts.fetch(Artifact("shop/web", packed), f"oci:{images}", tmp_path / "into")
    assert os.listdir(tmp_path / "into") == []


async def test_an_image_that_the_source_does_not_hold_is_refused(images: Path, tmp_path: Path) -> None:
    absent = Artifact("shop/web", names.digest("sha256:" + "0" * 64))
    with pytest.raises(Refused, match=r"0{64}"):
        await artifacts.fetch(absent, f"oci:{images}", tmp_path / "into")


@pytest.mark.parametrize("source", ["", "oci", "docker:/x", "/x", "registry.example.com", "oci:/none", "tar:/none"])
async def test_a_source_that_is_none_is_refused(images: Path, tmp_path: Path, source: str) -> None:
    with pytest.raises(Refused):
        await artifacts.fetch(Artifact("shop/web", _packed(images)), source, tmp_path / "into")


async def test_a_layer_of_an_unknown_kind_is_refused(images: Path, tmp_path: Path) -> None:
    body = json.loads(layout.directory(images).read(_packed(images)))
    body["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+zstd"
    content = json.dumps(body).encode()
    (images / "blobs" / "sha256" / digest.of_bytes(content).removeprefix("sha256:")).write_bytes(content)
    with pytest.raises(Refused, match="zstd"):
        await artifacts.fetch(Artifact("shop/web", digest.of_bytes(content)), f"oci:{images}", tmp_path / "into")


@pytest.mark.parametrize("kind", ["oci", "tar"])
async def test_a_cancelled_fetch_ends_and_leaves_nothing(
    images: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"oci": f"oci:{images}", "tar": f"tar:{_tarred(images)}"}[kind]
    packed = _packed(images)
    with anyio.CancelScope() as scope:
        checked = anyio.from_thread.check_cancelled

        def check() -> None:
            anyio.from_thread.run_sync(scope.cancel)
            checked()

        monkeypatch.setattr(anyio.from_thread, "check_cancelled", check)
        await artifacts.fetch(Artifact("shop/web", packed), source, tmp_path / "into")
    assert scope.cancelled_caught
    assert os.listdir(tmp_path / "into") == []
