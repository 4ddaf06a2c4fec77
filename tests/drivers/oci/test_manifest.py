"""Manifests are understood or refused."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.errors import Refused
from drivers.oci import manifest
from drivers.oci.manifest import ImageConfig, Index, Manifest
from stickers import names

DIGEST = "sha256:" + "a" * 64
PART = {"mediaType": manifest.LAYER, "digest": DIGEST, "size": 3}


def _manifest(**changes: Any) -> bytes:
    return json.dumps({"mediaType": manifest.MANIFEST, "config": PART, "layers": [PART]} | changes).encode()


def test_both_vendors_manifests_mean_the_same() -> None:
    assert manifest.read(_manifest()) == manifest.read(_manifest(mediaType=manifest.MANIFESTS[1]))


def test_an_old_manifest_without_media_type_is_known_by_its_content() -> None:
    body = {"config": PART, "layers": [PART]}
    assert isinstance(manifest.read(json.dumps(body).encode()), Manifest)
    assert isinstance(manifest.read(json.dumps({"manifests": [PART]}).encode()), Index)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "not an image manifest"),
        (_manifest(manifests=[]), "not an image manifest"),
        (_manifest(mediaType=manifest.INDEX), "is not read"),
        (_manifest(mediaType="application/vnd.docker.distribution.manifest.v1+json"), "is not read"),
        (_manifest(config=None), "not an object"),
        (_manifest(layers={}), "not a list"),
        (_manifest(layers=[PART | {"size": -1}]), "the size -1"),
        (_manifest(layers=[PART | {"size": True}]), "the size True"),
        (_manifest(layers=[PART | {"size": 1.0}]), "the size 1.0"),
        (_manifest(layers=[PART | {"size": 10**15}]), "at most"),
        (_manifest(layers=[PART | {"digest": "sha256:../../etc"}]), "is not a digest"),
        (_manifest(layers=[PART | {"digest": "sha512:" + "a" * 128}]), "is not a digest"),
        (_manifest(layers=[{"size": 1}]), "lacks its media type"),
        (_manifest(layers=[PART] * 501), "at most 500"),
        (b" " * (manifest.MAX_DOCUMENT + 1), "at most"),
    ],
)
def test_what_is_not_understood_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(Refused, match=said):
        manifest.read(content)


_scalar = st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([DIGEST, manifest.LAYER])
_keys = st.sampled_from(["mediaType", "config", "layers", "manifests", "digest", "size", "platform", "annotations"])
_object = st.dictionaries(_keys, _scalar, max_size=4)
_near = st.dictionaries(_keys, _scalar | _object | st.lists(_object, max_size=2), max_size=4)


@given(st.binary() | _near.map(lambda body: json.dumps(body).encode()))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    for read in (manifest.read, manifest.read_config):
        with suppress(Refused):
            read(content)


def test_the_configuration_says_how_the_image_is_started() -> None:
    inner = {"Entrypoint": ["python3"], "Cmd": ["serve.py"], "Env": ["A=1=2", "B"], "WorkingDir": "/app"}
    assert manifest.read_config(json.dumps({"config": inner}).encode()) == ImageConfig(
        argv=("python3", "serve.py"), environment=(("A", "1=2"), ("B", "")), directory="/app"
    )


def test_an_empty_configuration_says_nothing() -> None:
    assert manifest.read_config(b"{}") == ImageConfig()


def test_only_one_manifest_without_platform_is_everybodys() -> None:
    part = {"mediaType": manifest.MANIFEST, "digest": DIGEST, "size": 3}
    one = manifest.read(json.dumps({"manifests": [part]}).encode())
    two = manifest.read(json.dumps({"manifests": [part, part]}).encode())
    assert isinstance(one, Index)
    assert isinstance(two, Index)
    assert manifest.choose(one, manifest.this_machine()).digest == names.digest(DIGEST)
    with pytest.raises(Refused, match="it has none"):
        manifest.choose(two, manifest.this_machine())
