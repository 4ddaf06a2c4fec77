"""Whatever a layer holds, nothing is written outside of its directory."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.errors import Refused
from drivers.oci import layout, manifest
from drivers.oci.unpack import Limits, unpack

MiB = 1024 * 1024


def _file(name: str, content: bytes = b"content", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    return member, content


def _of(kind: bytes, name: str, target: str = "", mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, target, mode
    return member, b""


def _dir(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    return _of(tarfile.DIRTYPE, name, mode=mode)


def _link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return _of(tarfile.SYMTYPE, name, target)


def _hard(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return _of(tarfile.LNKTYPE, name, target)


def _tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where images are unpacked, below a directory that holds something worth keeping."""
    (tmp_path / "outside").write_text("precious")
    return tmp_path / "root"


def _unpack(root: Path, *layers: bytes, limits: Limits | None = None) -> None:
    paths = []
    for number, content in enumerate(layers):
        paths.append(root.parent / f"layer-{number}")
        paths[-1].write_bytes(content)
    unpack(paths, root, limits)


def _tree(root: Path) -> dict[str, str]:
    """Every path with what it is: a file's content, a link's target, or / for a directory."""
    found = {}
    for path in sorted(root.rglob("*")):
        shown = f"-> {path.readlink()}" if path.is_symlink() else "/" if path.is_dir() else path.read_text()
        found[str(path.relative_to(root))] = shown
    return found


def _packed(source: Path, home: Path) -> Path:
    """The one layer of the directory's image."""
    packed, images = layout.pack(source, home / "images"), layout.directory(home / "images")
    images.copy(images.resolve(packed, manifest.this_machine()).manifest.layers[0], home / "layer")
    return home / "layer"


def test_a_packed_directory_comes_back_as_it_was(tmp_path: Path, root: Path) -> None:
    source = tmp_path / "source"
    (source / "bin").mkdir(parents=True)
    (source / "bin" / "run").write_text("#!/bin/sh\n")
    (source / "bin" / "run").chmod(0o755)
    (source / "ünïcode " / "deep").mkdir(parents=True)
    (source / ("long" * 60)).write_text("long")
    (source / "latest").symlink_to("bin/run")
    unpack([_packed(source, tmp_path)], root)
    assert _tree(root) == _tree(source)
    assert os.access(root / "bin" / "run", os.X_OK)


def test_a_packed_name_that_is_no_text_comes_back(tmp_path: Path, root: Path) -> None:
    name = os.fsdecode(b"\xff\xfe")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / name).write_text("bytes")
    unpack([_packed(tmp_path / "source", tmp_path)], root)
    assert _tree(root) == {name: "bytes"}


@pytest.mark.parametrize("compress", [lambda content: content, gzip.compress])
def test_plain_and_gzipped_layers_are_read(root: Path, compress: Callable[[bytes], bytes]) -> None:
    _unpack(root, compress(_tar(_dir("./"), _dir("./etc"), _file("./etc/conf"))))
    assert _tree(root) == {"etc": "/", "etc/conf": "content"}


def test_zstd_is_refused_by_name(root: Path) -> None:
    with pytest.raises(Refused, match="zstd"):
        _unpack(root, b"\x28\xb5\x2f\xfd" + bytes(600))


def test_an_existing_directory_is_never_written_into(root: Path) -> None:
    root.mkdir()
    with pytest.raises(Refused, match="exists"):
        _unpack(root, _tar(_file("a")))


def test_parents_that_no_member_names_are_made(root: Path) -> None:
    _unpack(root, _tar(_file("a/b/c")))
    assert _tree(root) == {"a": "/", "a/b": "/", "a/b/c": "content"}


# -- leaving the root -----------------------------------------------------------------------------------------------

ESCAPES = {
    "absolute": [_file("/outside")],
    "parent": [_file("../outside")],
    "parent within": [_file("a/../../outside")],
    "link to absolute": [_link("a", "/etc/passwd")],
    "link to parent": [_link("a", "../outside")],
    "link to parent within": [_link("a/b", "../../outside")],
    "link to nothing": [_link("a", "")],
    "hard link to absolute": [_hard("a", "/etc/passwd")],
    "hard link to parent": [_hard("a", "../outside")],
    "hard link to nothing": [_hard("a", "none")],
    "hard link to link": [_link("a", "b"), _hard("c", "a")],
    "hard link below link": [_dir("d"), _file("d/f"), _link("a", "d"), _hard("c", "a/f")],
    "hard link to directory": [_dir("d"), _hard("c", "d")],
    "file below link": [_dir("d"), _link("a", "d"), _file("a/f")],
    "directory below link": [_dir("d"), _link("a", "d"), _dir("a/f")],
    "file below file": [_file("a"), _file("a/b")],
    "links that add up": [_dir("x/y"), _link("x/y/up", "../.."), _link("x/y/out", "up/../outside")],
    "links that add up, in the other order": [_link("x/y/out", "up/../outside"), _link("x/y/up", "../..")],
    "whiteout of parent": [_file("a/.wh...")],
    "whiteout of itself": [_file("a/.wh..")],
    "whiteout of nothing": [_file("a/.wh.")],
    "root is a file": [_file(".")],
    "root is a link": [_link("./", "a")],
    "character device": [_of(tarfile.CHRTYPE, "a")],
    "block device": [_of(tarfile.BLKTYPE, "a")],
    "pipe": [_of(tarfile.FIFOTYPE, "a")],
    "unknown kind": [_of(b"Z", "a")],
}


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("layers", ["in one layer", "in a layer each"])
def test_nothing_leaves_the_root(root: Path, name: str, layers: str) -> None:
    members = ESCAPES[name]
    archives = [_tar(*members)] if layers == "in one layer" else [_tar(member) for member in members]
    with pytest.raises(Refused):
        _unpack(root, *archives)
    assert (root.parent / "outside").read_text() == "precious"
    assert {path.name for path in root.parent.iterdir() if not path.name.startswith("layer")} <= {"outside", "root"}


def test_links_that_stay_inside_are_made(root: Path) -> None:
    members = (_file("lib/so.1"), _link("lib/so", "so.1"), _link("usr/lib", "../lib"), _hard("copy", "lib/so.1"))
    _unpack(root, _tar(*members, _link("dangling", "none"), _link("loop", "loop")))
    assert (root / "usr" / "lib" / "so").read_text() == "content"
    assert (root / "copy").stat().st_ino == (root / "lib" / "so.1").stat().st_ino


def test_a_file_takes_the_place_of_a_link_and_is_not_written_through_it(root: Path) -> None:
    _unpack(root, _tar(_file("a", b"old"), _link("b", "a")), _tar(_file("b", b"new")))
    assert _tree(root) == {"a": "old", "b": "new"}


def test_a_file_takes_the_place_of_a_hard_link_and_is_not_written_through_it(root: Path) -> None:
    _unpack(root, _tar(_file("a", b"old"), _hard("b", "a")), _tar(_file("b", b"new")))
    assert _tree(root) == {"a": "old", "b": "new"}


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_archive_writes_outside_or_raises_another_error(tmp_path_factory: pytest.TempPathFactory, data) -> None:  # type: ignore[no-untyped-def]
    home = tmp_path_factory.mktemp("fuzz")
    part = st.sampled_from(["a", "b", "..", ".", "", ".wh.a", ".wh..wh..opq", "c"])
    name = st.lists(part, min_size=1, max_size=4).map("/".join)
    kinds = st.sampled_from([tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
    member = st.builds(_of, kinds, name, name) | st.builds(_file, name)
    layers = [_tar(*members) for members in data.draw(st.lists(st.lists(member, max_size=6), max_size=3))]
    (home / "in").mkdir()
    with suppress(Refused):
        _unpack(home / "in" / "root", *layers)
    assert {path.name for path in home.iterdir()} == {"in"}
    assert all(path.name == "root" or path.name.startswith("layer") for path in (home / "in").iterdir())
    for path in (home / "in").rglob("*"):
        assert not path.is_symlink() or not os.path.isabs(path.readlink())


# -- damage ---------------------------------------------------------------------------------------------------------

_HONEST = _tar(_dir("d"), _file("d/f", b"x" * 700), _link("l", "d/f"), _file("n" * 150))


@given(
    at=st.integers(0, len(_HONEST) - 1),
    value=st.binary(min_size=1, max_size=12),
    cut=st.integers(0, len(_HONEST)) | st.none(),
)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_damaged_archive_is_unpacked_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: bytes, cut: int | None
) -> None:
    home = tmp_path_factory.mktemp("damage")
    content = (_HONEST[:at] + value + _HONEST[at + len(value) :])[:cut]
    with suppress(Refused):
        _unpack(home / "root", content)
    with suppress(Refused):
        _unpack(home / "zipped", gzip.compress(content)[: cut and cut // 4])


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(root: Path) -> None:
    content = bytearray(_tar(_file("a"), _file("b")))
    content[1024 + 10] ^= 1
    with pytest.raises(Refused, match="damaged header"):
        _unpack(root, bytes(content))


@pytest.mark.parametrize("cut", [100, 2000])
def test_a_cut_gzip_is_refused(root: Path, cut: int) -> None:
    with pytest.raises(Refused):
        _unpack(root, gzip.compress(_tar(_file("a", os.urandom(4096))))[:-cut])


def test_a_negative_size_is_refused_and_does_not_loop(root: Path) -> None:
    member = _tar(_file("a"))[:512]
    negative = b"\xff" * 12
    header = bytearray(member[:124] + negative + member[136:])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(Refused, match="negative size"):
        _unpack(root, bytes(header) + bytes(2048))


# -- limits ---------------------------------------------------------------------------------------------------------


def test_more_bytes_than_allowed_are_refused(root: Path) -> None:
    with pytest.raises(Refused, match="more than the 100 bytes"):
        _unpack(root, _tar(_file("a", b"x" * 60)), _tar(_file("b", b"x" * 60)), limits=Limits(size=100))


def test_more_entries_than_allowed_are_refused(root: Path) -> None:
    with pytest.raises(Refused, match="more than the 3 entries"):
        _unpack(root, _tar(*(_file(str(number)) for number in range(4))), limits=Limits(entries=3))


def test_parents_count_as_entries(root: Path) -> None:
    with pytest.raises(Refused, match="more than the 3 entries"):
        _unpack(root, _tar(_file("a/b/c/d")), limits=Limits(entries=3))


def test_deeper_than_allowed_is_refused(root: Path) -> None:
    with pytest.raises(Refused, match="longer or deeper"):
        _unpack(root, _tar(_file("a/" * 101 + "b")))


def test_a_bomb_is_refused_before_it_is_written(root: Path) -> None:
    bomb = gzip.compress(_tar(_file("a", bytes(8 * MiB))))
    with pytest.raises(Refused, match="more than the 1048576 bytes"):
        _unpack(root, bomb, limits=Limits(size=MiB))
    assert sum(path.stat().st_size for path in root.rglob("*")) <= MiB


def test_a_sparse_bomb_is_refused(root: Path) -> None:
    member = tarfile.TarInfo("a")
    member.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "a"}
    member.pax_headers |= {"GNU.sparse.size": str(2**50), "GNU.sparse.map": "0,1", "GNU.sparse.numblocks": "1"}
    member.size = 1
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(Refused, match="bytes that are allowed"):
        _unpack(root, file.getvalue())


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_bomb_takes_no_memory(root: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("a")
    member.type, member.size = kind, 256 * MiB
    (root.parent / "bomb").write_bytes(gzip.compress(member.tobuf() + bytes(256 * MiB), 1))
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match="headers longer than"):
            unpack([root.parent / "bomb"], root)
        assert tracemalloc.get_traced_memory()[1] < 8 * MiB
    finally:
        tracemalloc.stop()


def test_a_chain_of_headers_is_refused(root: Path) -> None:
    member = tarfile.TarInfo("a")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 2
    with pytest.raises(Refused):
        _unpack(root, (member.tobuf() + b"b\0" + bytes(510)) * 1000 + _tar(_file("a")))


def test_large_files_take_no_memory(root: Path) -> None:
    content = gzip.compress(_tar(_file("a", bytes(32 * MiB))), 1)
    tracemalloc.start()
    try:
        _unpack(root, content)
        assert tracemalloc.get_traced_memory()[1] < 4 * MiB
    finally:
        tracemalloc.stop()
    assert (root / "a").stat().st_size == 32 * MiB


# -- modes and whiteouts --------------------------------------------------------------------------------------------


def test_set_id_bits_and_the_right_of_others_to_write_are_left_out(root: Path) -> None:
    _unpack(root, _tar(_dir("d", 0o1777), _file("d/su", mode=0o6777), _file("secret", mode=0o600), _dir("no", 0)))
    modes = {str(path.relative_to(root)): stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*")}
    assert modes == {"d": 0o755, "d/su": 0o755, "secret": 0o600, "no": 0o700}


def test_a_whiteout_takes_away_what_a_lower_layer_brought(root: Path) -> None:
    _unpack(root, _tar(_file("d/a"), _file("d/b"), _file("e/f")), _tar(_file("d/.wh.a"), _file(".wh.e")))
    assert _tree(root) == {"d": "/", "d/b": "content"}


@pytest.mark.parametrize("order", [1, -1])
def test_a_whiteout_does_not_touch_what_its_own_layer_brings(root: Path, order: int) -> None:
    upper = [_file("d/.wh.a"), _file("d/a", b"new")][::order]
    _unpack(root, _tar(_file("d/a", b"old")), _tar(*upper))
    assert _tree(root) == {"d": "/", "d/a": "new"}


@pytest.mark.parametrize("order", [1, -1])
def test_an_opaque_directory_keeps_only_what_its_own_layer_brings(root: Path, order: int) -> None:
    upper = [_file("d/.wh..wh..opq"), _file("d/sub/new", b"new")][::order]
    _unpack(root, _tar(_file("d/old"), _file("d/sub/old"), _file("keep")), _tar(_dir("d"), *upper))
    assert _tree(root) == {"d": "/", "d/sub": "/", "d/sub/new": "new", "keep": "content"}


def test_a_whiteout_of_nothing_there_does_nothing(root: Path) -> None:
    _unpack(root, _tar(_file("none/.wh.a"), _file(".wh.b"), _file(".wh..wh.plnk"), _file("c")))
    assert _tree(root) == {"c": "content"}


def test_a_whiteout_does_not_reach_through_a_link(root: Path) -> None:
    _unpack(root, _tar(_file("d/a"), _link("l", "d")), _tar(_file("l/.wh.a")))
    assert _tree(root) == {"d": "/", "d/a": "content", "l": "-> d"}


def test_a_whiteout_with_content_is_read_past(root: Path) -> None:
    _unpack(root, _tar(_file(".wh.a", os.urandom(3 * MiB)), _file("b")))
    assert _tree(root) == {"b": "content"}


def test_a_directory_becomes_a_file_and_back(root: Path) -> None:
    _unpack(root, _tar(_file("a/b")), _tar(_file("a")), _tar(_dir("a"), _file("a/c")))
    assert _tree(root) == {"a": "/", "a/c": "content"}
