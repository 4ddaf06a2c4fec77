"""Packing is reproducible and atomic; reading believes nothing but the digest."""

from __future__ import annotations

import gzip
import json
import os
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from drivers.errors import Refused
from drivers.oci import layout, manifest
from drivers.oci.manifest import Platform
from stickers import digest, names
from stickers.names import Digest

HERE = manifest.this_machine()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with a file, a program, a link and an empty directory."""
    root = tmp_path / "source"
    (root / "bin").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "serve.py").write_text("print('hello')\n")
    (root / "bin" / "run").write_text("#!/bin/sh\n")
    (root / "bin" / "run").chmod(0o755)
    (root / "latest").symlink_to("bin/run")
    return root


def _blob(images: Path, content: Digest) -> Path:
    return images / "blobs" / "sha256" / content.removeprefix("sha256:")


def _manifest(images: Path, content: Digest) -> dict[str, object]:
    return dict(json.loads(_blob(images, content).read_bytes()))


def test_the_same_content_gives_the_same_digest(source: Path, tmp_path: Path) -> None:
    first = layout.pack(source, tmp_path / "one")
    os.utime(source / "serve.py", (1, 1))
    (source / "serve.py").chmod(0o600)
    (source / "bin").chmod(0o700)
    assert layout.pack(source, tmp_path / "two") == first


def test_the_order_in_which_files_were_made_does_not_matter(tmp_path: Path) -> None:
    for where, order in (("one", ("a", "b", "c")), ("two", ("c", "a", "b"))):
        (tmp_path / where).mkdir()
        for name in order:
            (tmp_path / where / name).write_text(name)
    assert layout.pack(tmp_path / "one", tmp_path / "x") == layout.pack(tmp_path / "two", tmp_path / "y")


@pytest.mark.parametrize("change", ["content", "name", "executable", "link", "argv", "platform"])
def test_another_content_gives_another_digest(source: Path, tmp_path: Path, change: str) -> None:
    first = layout.pack(source, tmp_path / "one", argv=("python3", "serve.py"), platform=HERE)
    argv, platform = ("python3", "serve.py"), HERE
    match change:
        case "content":
            (source / "serve.py").write_text("print('hallo')\n")
        case "name":
            (source / "serve.py").rename(source / "server.py")
        case "executable":
            (source / "serve.py").chmod(0o755)
        case "link":
            (source / "latest").unlink()
            (source / "latest").symlink_to("serve.py")
        case "argv":
            argv = ("python3", "-u", "serve.py")
        case "platform":
            platform = Platform(os="linux", architecture="other")
    assert layout.pack(source, tmp_path / "two", argv=argv, platform=platform) != first


def test_a_layer_carries_no_owner_time_or_name_of_the_packer(source: Path, tmp_path: Path) -> None:
    body = _manifest(tmp_path / "images", layout.pack(source, tmp_path / "images"))
    layer = _blob(tmp_path / "images", body["layers"][0]["digest"])  # type: ignore[index]
    with tarfile.open(layer) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == ["bin", "bin/run", "empty", "latest", "serve.py"]
    assert {(member.uid, member.gid, member.uname, member.gname, member.mtime) for member in members} == {
        (0, 0, "", "", 0)
    }
    assert layer.read_bytes()[4:8] == b"\0\0\0\0"  # the time in the header of gzip


def test_the_configuration_names_the_uncompressed_layer_and_the_argv(source: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    body = _manifest(images, layout.pack(source, images, argv=("python3", "serve.py")))
    layer = _blob(images, body["layers"][0]["digest"])  # type: ignore[index]
    config = _blob(images, body["config"]["digest"]).read_bytes()  # type: ignore[index]
    assert json.loads(config)["rootfs"]["diff_ids"] == [digest.of_bytes(gzip.decompress(layer.read_bytes()))]
    assert manifest.read_config(config).argv == ("python3", "serve.py")


def test_packing_adds_to_the_layout_and_lists_by_name(source: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    first = layout.pack(source, images, name="shop:1")
    (source / "serve.py").write_text("two")
    second = layout.pack(source, images, name="shop:2")
    assert [(item.digest, item.name) for item in layout.directory(images).images()] == [
        (first, "shop:1"),
        (second, "shop:2"),
    ]


def test_a_name_moves_to_the_image_that_got_it_last(source: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    layout.pack(source, images, name="shop:1")
    (source / "serve.py").write_text("two")
    second = layout.pack(source, images, name="shop:1")
    assert [(item.digest, item.name) for item in layout.directory(images).images()] == [(second, "shop:1")]


def test_packing_twice_changes_no_file_of_the_layout(source: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    layout.pack(source, images, name="shop:1")
    before = {path: path.read_bytes() for path in images.rglob("*") if path.is_file()}
    layout.pack(source, images)
    assert {path: path.read_bytes() for path in images.rglob("*") if path.is_file()} == before


def test_what_others_listed_stays_as_they_wrote_it(source: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    layout.pack(source, images)
    index = json.loads((images / "index.json").read_bytes())
    index["manifests"][0] |= {"platform": {"os": "linux", "architecture": "s390x"}, "annotations": {"theirs": "yes"}}
    (images / "index.json").write_text(json.dumps(index))
    (source / "serve.py").write_text("two")
    layout.pack(source, images)
    assert json.loads((images / "index.json").read_bytes())["manifests"][0] == index["manifests"][0]


def test_packers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    def packed(number: int) -> Digest:
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "file").write_text(str(number))
        return layout.pack(tmp_path / str(number), tmp_path / "images", name=f"shop:{number}")

    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(packed, range(16)))
    assert {item.digest for item in layout.directory(tmp_path / "images").images()} == digests


def test_what_a_killed_packer_left_is_cleared_by_the_next(source: Path, tmp_path: Path) -> None:
    layout.pack(source, tmp_path / "images")
    debris = tmp_path / "images" / "blobs" / "sha256" / ".new-killed"
    debris.write_bytes(b"half")
    layout.pack(source, tmp_path / "images")
    assert not debris.exists()


def test_a_failed_packing_leaves_no_file(source: Path, tmp_path: Path) -> None:
    os.mkfifo(source / "pipe")
    with pytest.raises(Refused, match="pipe is neither a file"):
        layout.pack(source, tmp_path / "images")
    assert list((tmp_path / "images" / "blobs" / "sha256").iterdir()) == []


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "bin/../../outside"])
def test_a_link_out_of_the_directory_is_not_packed(source: Path, tmp_path: Path, target: str) -> None:
    (source / "escape").symlink_to(target)
    with pytest.raises(Refused, match="outside"):
        layout.pack(source, tmp_path / "images")


def test_a_layout_within_its_source_is_refused(source: Path) -> None:
    with pytest.raises(Refused, match="into itself"):
        layout.pack(source, source / "images")


def test_a_directory_of_other_things_is_not_made_a_layout(source: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    with pytest.raises(Refused, match="holds other things"):
        layout.pack(source, tmp_path / "home")


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="is not a directory"):
        layout.pack(tmp_path / "none", tmp_path / "images")


def test_packing_takes_no_memory_for_content(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with (tmp_path / "source" / "big").open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    tracemalloc.start()
    try:
        layout.pack(tmp_path / "source", tmp_path / "images")
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()


# -- reading --------------------------------------------------------------------------------------------------------


def _tar_of(images: Path, prefix: str = "") -> Path:
    path = images.with_suffix(".tar")
    with tarfile.open(path, "w") as tar:
        for item in sorted(images.rglob("*")):
            tar.add(item, prefix + str(item.relative_to(images)), recursive=False)
    return path


@pytest.mark.parametrize("prefix", ["", "./"])
def test_a_tar_of_a_layout_reads_like_the_layout(source: Path, tmp_path: Path, prefix: str) -> None:
    packed = layout.pack(source, tmp_path / "images", name="shop:1")
    whole, tarred = layout.directory(tmp_path / "images"), layout.archive(_tar_of(tmp_path / "images", prefix))
    assert tarred.images() == whole.images()
    assert tarred.resolve(packed, HERE) == whole.resolve(packed, HERE)
    layer = whole.resolve(packed, HERE).manifest.layers[0]
    tarred.copy(layer, tmp_path / "layer")
    assert digest.of_bytes((tmp_path / "layer").read_bytes()) == layer.digest


def test_a_changed_manifest_is_refused(source: Path, tmp_path: Path) -> None:
    packed = layout.pack(source, tmp_path / "images")
    blob = _blob(tmp_path / "images", packed)
    blob.write_bytes(blob.read_bytes().replace(b"gzip", b"zstd"))
    with pytest.raises(Refused, match="has other content"):
        layout.directory(tmp_path / "images").resolve(packed, HERE)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: content[:-1], "ends after"),
        (lambda content: content + b"x", "is longer than"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "has other content"),
    ],
)
def test_a_changed_layer_is_refused_and_leaves_no_file(source: Path, tmp_path: Path, damage, said: str) -> None:  # type: ignore[no-untyped-def]
    packed = layout.pack(source, tmp_path / "images")
    found = layout.directory(tmp_path / "images")
    layer = found.resolve(packed, HERE).manifest.layers[0]
    blob = _blob(tmp_path / "images", layer.digest)
    blob.write_bytes(damage(blob.read_bytes()))
    with pytest.raises(Refused, match=said):
        found.copy(layer, tmp_path / "layer")
    assert not (tmp_path / "layer").exists()


def test_an_existing_file_is_never_written_over(source: Path, tmp_path: Path) -> None:
    packed = layout.pack(source, tmp_path / "images")
    found = layout.directory(tmp_path / "images")
    (tmp_path / "layer").write_text("mine")
    with pytest.raises(FileExistsError):
        found.copy(found.resolve(packed, HERE).manifest.layers[0], tmp_path / "layer")
    assert (tmp_path / "layer").read_text() == "mine"


def test_a_blob_that_is_a_link_is_not_followed(source: Path, tmp_path: Path) -> None:
    packed = layout.pack(source, tmp_path / "images")
    blob = _blob(tmp_path / "images", packed)
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match=packed.removeprefix("sha256:")):
        layout.directory(tmp_path / "images").resolve(packed, HERE)


def test_a_missing_blob_is_refused_by_name(source: Path, tmp_path: Path) -> None:
    layout.pack(source, tmp_path / "images")
    with pytest.raises(Refused, match=r"0{64}"):
        layout.directory(tmp_path / "images").resolve(names.digest("sha256:" + "0" * 64), HERE)


def test_a_directory_that_is_no_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="oci-layout"):
        layout.directory(tmp_path)


def test_another_version_of_layout_is_refused(source: Path, tmp_path: Path) -> None:
    layout.pack(source, tmp_path / "images")
    (tmp_path / "images" / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
    with pytest.raises(Refused, match=r"version '2\.0\.0'"):
        layout.directory(tmp_path / "images")


def test_a_compressed_tar_of_a_layout_is_refused_clearly(source: Path, tmp_path: Path) -> None:
    layout.pack(source, tmp_path / "images")
    tar = _tar_of(tmp_path / "images")
    tar.write_bytes(gzip.compress(tar.read_bytes()))
    with pytest.raises(Refused, match="is compressed"):
        layout.archive(tar)


def test_a_file_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(4096))
    with pytest.raises(Refused, match="not a tar archive"):
        layout.archive(tmp_path / "file")


# -- indexes --------------------------------------------------------------------------------------------------------


def _index(images: Path, entries: list[dict[str, object]]) -> Digest:
    content = json.dumps({"schemaVersion": 2, "mediaType": manifest.INDEX, "manifests": entries}).encode()
    _blob(images, digest.of_bytes(content)).write_bytes(content)
    return digest.of_bytes(content)


def _entry(images: Path, content: Digest, architecture: str, **more: object) -> dict[str, object]:
    size = _blob(images, content).stat().st_size
    platform = {"os": "linux", "architecture": architecture}
    return {"mediaType": manifest.MANIFEST, "digest": content, "size": size, "platform": platform} | more


def test_an_index_is_resolved_to_the_platform_and_both_digests_are_told(source: Path, tmp_path: Path) -> None:
    images, two = tmp_path / "images", {}
    for architecture in ("amd64", "arm64"):
        platform = Platform(os="linux", architecture=architecture)
        two[architecture] = layout.pack(source, images, platform=platform)
    index = _index(images, [_entry(images, content, name) for name, content in two.items()])
    found = layout.directory(images).resolve(index, Platform(os="linux", architecture="arm64"))
    assert (found.asked, found.digest) == (index, two["arm64"])


def test_an_index_without_the_platform_says_what_it_has(source: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    index = _index(images, [_entry(images, layout.pack(source, images), "mips")])
    with pytest.raises(Refused, match="has linux/mips"):
        layout.directory(images).resolve(index, Platform(os="linux", architecture="arm64"))


def test_attestations_in_an_index_are_not_taken_for_images(source: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    packed = layout.pack(source, images)
    unknown = {"platform": {"os": "unknown", "architecture": "unknown"}}
    index = _index(images, [_entry(images, packed, "x", **unknown), _entry(images, packed, HERE.architecture)])
    assert layout.directory(images).resolve(index, HERE).digest == packed


def test_an_index_of_indexes_is_refused(source: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    inner = _index(images, [_entry(images, layout.pack(source, images), HERE.architecture)])
    outer = _index(images, [_entry(images, inner, HERE.architecture)])
    with pytest.raises(Refused, match="index of indexes"):
        layout.directory(images).resolve(outer, HERE)
