from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio import move_on_after
from hypothesis import given, settings
from hypothesis import strategies as st

from desired_state.sources import directory
from desired_state.sources.base import Source, SourceUnavailable
from desired_state.sources.directory import Directory
from desired_state.strict import FILE_BYTES


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "documents"
    made.mkdir()
    return made


def source(root: Path) -> Directory:
    return Directory(root, settle=0.001, patience=0.02)


def write(root: Path, name: str, text: str = "a: 1\n") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


async def findings(root: Path) -> list[tuple[str, str]]:
    return [(found.file, found.code) for found in (await source(root).read()).findings]


def test_a_directory_is_a_source(root: Path) -> None:
    made: Source = Directory(root)
    assert made is not None


async def test_every_document_below_is_read(root: Path) -> None:
    write(root, "a.yaml", "a: 1\n")
    write(root, "deep/er/b.yml", "b: 1\n")
    write(root, "C.YAML", "c: 1\n")
    tree = await source(root).read()
    assert tree.files == {"a.yaml": b"a: 1\n", "deep/er/b.yml": b"b: 1\n", "C.YAML": b"c: 1\n"}
    assert tree.findings == ()


@pytest.mark.parametrize(
    "name",
    [
        ".hidden.yaml",
        ".git/config.yaml",
        "a.yaml~",
        ".a.yaml.swp",
        "#a.yaml#",
        ".#a.yaml",
        "README.md",
        "a.yaml.tmp",
        "4913",
    ],
)
async def test_hidden_files_and_what_editors_leave_are_no_documents(root: Path, name: str) -> None:
    write(root, name)
    assert (await source(root).read()).files == {}


async def test_an_empty_directory_is_an_empty_tree(root: Path) -> None:
    tree = await source(root).read()
    assert (tree.files, tree.findings) == ({}, ())


async def test_a_directory_that_is_not_there_says_nothing_of_what_is_desired(root: Path) -> None:
    with pytest.raises(SourceUnavailable, match="cannot be read: No such file or directory"):
        await source(root / "missing").read()
    with pytest.raises(SourceUnavailable, match="Not a directory"):
        await source(write(root, "a.yaml")).read()


async def test_the_revision_is_of_names_and_contents_only(root: Path, tmp_path: Path) -> None:
    write(root, "b.yaml", "b: 1\n")
    write(root, "a.yaml", "a: 1\n")
    other = tmp_path / "other"
    write(other, "a.yaml", "a: 1\n")
    write(other, "b.yaml", "b: 1\n")
    write(other, "note.txt")
    first = await source(root).read()
    assert first.revision == (await source(other).read()).revision
    write(other, "b.yaml", "b: 2\n")
    assert first.revision != (await source(other).read()).revision


async def test_a_file_by_another_name_is_another_revision(root: Path) -> None:
    path = write(root, "a.yaml")
    first = await source(root).read()
    path.rename(root / "b.yaml")
    assert first.revision != (await source(root).read()).revision


async def test_a_name_that_is_no_text_is_read_and_named(root: Path) -> None:
    (root / os.fsdecode(b"\xff\n.yaml")).write_text("a: 1\n")
    tree = await source(root).read()
    assert list(tree.files.values()) == [b"a: 1\n"]


async def test_links_inside_the_tree_are_followed(root: Path) -> None:
    write(root, "..data/a.yaml", "a: 1\n")
    (root / "a.yaml").symlink_to("..data/a.yaml")
    assert (await source(root).read()).files == {"a.yaml": b"a: 1\n"}


async def test_the_root_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    write(root, "a.yaml")
    (tmp_path / "current").symlink_to(root)
    assert list((await source(tmp_path / "current").read()).files) == ["a.yaml"]


async def test_a_link_out_of_the_tree_is_a_finding_and_not_followed(root: Path, tmp_path: Path) -> None:
    write(tmp_path, "documents-secret.yaml", "password: 1\n")
    (root / "a.yaml").symlink_to(tmp_path / "documents-secret.yaml")
    tree = await source(root).read()
    assert tree.files == {}
    assert [str(found) for found in tree.findings] == [
        "a.yaml:1:1: found a symbolic link that leads out of the tree; expected one that stays inside"
    ]


async def test_what_would_be_passed_over_is_a_finding(root: Path) -> None:
    write(root, "real/a.yaml")
    (root / "linked").symlink_to("real")
    (root / "gone.yaml").symlink_to("nowhere.yaml")
    (root / "round.yaml").symlink_to("round.yaml")
    os.mkfifo(root / "pipe.yaml")
    (root / "folder.yaml").mkdir()
    assert await findings(root) == [
        ("gone.yaml", "FILE_MISSING"),
        ("linked", "LINK_TO_DIRECTORY"),
        ("pipe.yaml", "NOT_A_FILE"),
        ("round.yaml", "NOT_A_FILE"),
    ]


async def test_what_may_not_be_read_is_a_finding(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *_: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    write(root, "a.yaml")
    monkeypatch.setattr(directory, "_read", refuse)
    assert await findings(root) == [("a.yaml", "FILE_UNREADABLE")]


async def test_a_directory_that_may_not_be_read_is_a_finding(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    write(root, "closed/b.yaml")
    monkeypatch.setattr(os, "scandir", refuse)
    assert await findings(root) == [("closed", "FILE_UNREADABLE")]


async def test_a_disk_that_fails_says_nothing_of_what_is_desired(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> bytes:
        raise OSError(5, "Input/output error", path)

    write(root, "a.yaml")
    monkeypatch.setattr(directory, "_read", fail)
    with pytest.raises(SourceUnavailable, match=r"a\.yaml cannot be read: Input/output error"):
        await source(root).read()


async def test_a_file_is_read_no_further_than_its_limit(root: Path) -> None:
    write(root, "a.yaml", "#" * (FILE_BYTES + 500))
    assert len((await source(root).read()).files["a.yaml"]) == FILE_BYTES + 1


async def test_a_tree_has_a_limit_of_bytes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "TREE_BYTES", 10)
    write(root, "a.yaml", "#" * 6)
    write(root, "b.yaml", "#" * 6)
    with pytest.raises(SourceUnavailable, match="MiB of documents"):
        await source(root).read()


async def test_a_tree_has_a_limit_of_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "FILES", 2)
    for number in range(3):
        write(root, f"{number}.yaml")
    with pytest.raises(SourceUnavailable, match="more than 2"):
        await source(root).read()


async def test_directories_nest_to_a_limit(root: Path) -> None:
    write(root, "/".join(["d"] * 25) + "/a.yaml")
    ((_, code),) = await findings(root)
    assert code == "TOO_DEEP"


class Restless(Directory):
    """A directory in which something is written while it is read, so many times."""

    def __init__(self, root: Path, times: int) -> None:
        super().__init__(root, settle=0.001)
        self.times = times

    def _snapshot(self):  # type: ignore[no-untyped-def]
        read = super()._snapshot()
        if self.times:
            self.times -= 1
            write(self.root, "a.yaml", f"written: again\nleft: {self.times}\n")
        return read


async def test_a_tree_that_changes_while_it_is_read_is_read_again(root: Path) -> None:
    write(root, "a.yaml", "first: 1\n")
    tree = await Restless(root, 3).read()
    assert tree.files["a.yaml"] == b"written: again\nleft: 0\n"


async def test_a_tree_that_never_stops_changing_is_unavailable(root: Path) -> None:
    write(root, "a.yaml")
    with pytest.raises(SourceUnavailable, match="does not stop changing"):
        await Restless(root, 1000).read()


async def test_a_file_that_goes_away_while_it_is_read_is_looked_for_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root, "a.yaml")
    write(root, "b.yaml")
    read = directory._read

    def racing(path: str) -> bytes:
        (root / "b.yaml").unlink(missing_ok=True)
        return read(path)

    monkeypatch.setattr(directory, "_read", racing)
    assert list((await source(root).read()).files) == ["a.yaml"]


@given(st.dictionaries(st.sampled_from(["a.yaml", "b/c.yml", "d/e/f.yaml"]), st.binary(max_size=20), max_size=3))
@settings(max_examples=20, deadline=None)
def test_what_was_written_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    root = tmp_path_factory.mktemp("documents")
    for name, content in files.items():
        write(root, name).write_bytes(content)
    assert anyio.run(source(root).read).files == files


# -- changes -----------------------------------------------------------------------------------------------------------


class Told:
    """How often a change was told and not yet asked for."""

    def __init__(self) -> None:
        self.times = 0
        self.again = anyio.Event()

    async def listen(self, source: Directory) -> None:
        async for _ in source.changes():
            self.times += 1
            self.again.set()

    async def upcoming(self, seconds: float = 30) -> bool:
        """Whether a change is told within the time."""
        with move_on_after(seconds):
            await self.again.wait()
        told, self.times, self.again = bool(self.times), 0, anyio.Event()
        return told

    async def quiet(self) -> int:
        """Waits until nothing is told any more; how many times something was."""
        times = 0
        while await self.upcoming(0.7):
            times += 1
        return times


@asynccontextmanager
async def watched(root: Path) -> AsyncIterator[Told]:
    told = Told()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(told.listen, source(root))
        yield told
        tasks.cancel_scope.cancel()


async def test_a_change_is_told_and_the_first_as_soon_as_one_watches(root: Path) -> None:
    async with watched(root) as told:
        assert await told.upcoming()
        write(root, "a.yaml")
        assert await told.upcoming()


@pytest.mark.parametrize("verb", ["edit", "rename", "remove", "below"])
async def test_every_kind_of_change_is_told(root: Path, verb: str) -> None:
    path = write(root, "deep/a.yaml")
    async with watched(root) as told:
        assert await told.upcoming()
        match verb:
            case "edit":
                path.write_text("a: 2\n")
            case "rename":
                path.rename(root / "b.yaml")
            case "remove":
                path.unlink()
            case "below":
                write(root, "new/c.yaml")
        assert await told.upcoming()


async def test_nothing_is_told_while_nothing_changes(root: Path) -> None:
    write(root, "a.yaml")
    async with watched(root) as told:
        assert await told.upcoming()
        assert await told.quiet() == 0


async def test_many_changes_at_once_are_told_as_few(root: Path) -> None:
    async with watched(root) as told:
        assert await told.upcoming()
        for number in range(200):
            write(root, f"{number}.yaml")
        assert 1 <= await told.quiet() <= 20


async def test_the_watch_survives_that_the_directory_goes_away(root: Path) -> None:
    write(root, "a.yaml")
    async with watched(root) as told:
        assert await told.upcoming()
        shutil.rmtree(root)
        assert await told.upcoming()
        await told.quiet()
        write(root, "b.yaml")
        assert await told.upcoming()
        await told.quiet()
        write(root, "c.yaml")
        assert await told.upcoming()


async def test_a_directory_made_anew_at_once_is_watched(root: Path) -> None:
    """It may get the very number of the one that was removed."""
    write(root, "a.yaml")
    async with watched(root) as told:
        assert await told.upcoming()
        shutil.rmtree(root)
        write(root, "b.yaml")
        assert await told.upcoming()
        await told.quiet()
        write(root, "c.yaml")
        assert await told.upcoming()


async def test_another_directory_in_its_place_is_told(root: Path, tmp_path: Path) -> None:
    """As when a link is turned to the next version of a tree."""
    (tmp_path / "next").mkdir()
    link = tmp_path / "current"
    link.symlink_to(root)
    async with watched(link) as told:
        assert await told.upcoming()
        (tmp_path / "new").symlink_to(tmp_path / "next")
        (tmp_path / "new").rename(link)
        assert await told.upcoming()
        await told.quiet()
        write(tmp_path / "next", "a.yaml")
        assert await told.upcoming()


async def test_a_directory_that_comes_later_is_told(tmp_path: Path) -> None:
    async with watched(tmp_path / "later") as told:
        assert not await told.upcoming(0.1)
        write(tmp_path / "later", "a.yaml")
        assert await told.upcoming()


async def test_when_nothing_can_watch_it_is_looked_at_now_and_then(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def exhausted(*_: object, **__: object) -> AsyncIterator[object]:
        raise OSError(28, "inotify watch limit reached")
        yield

    monkeypatch.setattr(directory, "awatch", exhausted)
    async with watched(root) as told:
        assert await told.upcoming(1)
        assert await told.upcoming(1)


async def test_to_stop_watching_takes_no_time(root: Path) -> None:
    async with watched(root) as told:
        assert await told.upcoming()
        began = anyio.current_time()
    assert anyio.current_time() - began < 2
