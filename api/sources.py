"""The declared sources, built: each as the reconciler follows it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from anyio import to_thread

from api.problem import Problem
from api.repositories import clone
from api.settings import Settings
from desired_state.secrets import Resolve
from desired_state.sources import declared
from desired_state.sources.base import Source, Tree
from desired_state.sources.directory import Directory
from reconciler.documents import Documents
from reconciler.sources import Followed
from stickers import digest

if TYPE_CHECKING:
    from api.house import House
    from reconciler.store.store import Store

ALONE = "documents"  # the name of the one source where no file declares others
SHOWN = 20


def read(settings: Settings) -> dict[str, declared.Source]:
    """What is declared, by name. Without a file of sources it is the one directory of documents."""
    if settings.sources is None:
        directory = declared.DirectorySource.model_construct(path=str(settings.documents))
        return {ALONE: declared.Source.model_construct(name=ALONE, kind="Source", directory=directory)}
    try:
        content = settings.sources.read_bytes()
    except OSError as error:
        raise Problem("NO_SOURCES", f"{settings.sources}: {error.strerror}") from None
    found = declared.read(settings.sources.name, content)
    if found.findings:
        lines = "; ".join(map(str, found.findings[:SHOWN]))
        plain = [digest.plain(finding) for finding in found.findings]
        raise Problem("SOURCES_INVALID", f"the file of sources has findings: {lines}", findings=plain)
    if not found.sources:
        raise Problem("SOURCES_INVALID", f"{settings.sources} declares no source")
    return {source.name: source for source in found.sources}


async def take_again(house: House) -> None:
    """The file of sources as it is now. What is declared as before is followed on undisturbed. Raises `Problem`, and
    what was declared last stays in force."""
    found = await to_thread.run_sync(read, house.settings)
    same = [name for name, said in found.items() if house.sources.get(name) == said]
    if len(same) == len(found) == len(house.sources):
        house.reconciler.misdeclared = None
        return
    tell_of_lacking(found)
    going = {name: house.reconciler.sources[name].followed for name in same}
    fresh = {name: said for name, said in found.items() if name not in going}
    house.sources.clear()
    house.sources.update(found)
    house.reconciler.follow(going | followed(fresh, house.settings, house.store, house.secret))


def tell_of_lacking(sources: Mapping[str, declared.Source]) -> None:
    for sentence in lacking(sources):
        structlog.get_logger().warning("program_missing", problem=sentence)


def lacking(sources: Mapping[str, declared.Source]) -> Iterator[str]:
    """The programs that sources need and this host, or this image, has not: a sentence for each."""
    for program, scheme in (("git", ""), ("ssh", "ssh://")):
        wants = [name for name, said in sources.items() if said.git and said.git.repository.startswith(scheme)]
        if wants and shutil.which(program) is None:
            yield (
                f"there is no {program} program here, which the source {', '.join(wants)} needs: install it "
                "(Debian: openssh-client for ssh), or give the image a base that has it"
            )


def followed(
    sources: Mapping[str, declared.Source], settings: Settings, store: Store, secret: Resolve
) -> dict[str, Followed]:
    return {
        name: Followed(
            source=_built(said, settings, store, secret),
            poll=said.git.poll.total_seconds() if said.git else 30.0,
            stale=said.stale,
            begins_empty=said.database is not None,
        )
        for name, said in sources.items()
    }


async def trees(sources: Mapping[str, declared.Source], secret: Resolve) -> Mapping[str, Tree]:
    """What each source beside the database says now, for whoever only looks: read apart from the daemon's clones."""
    found: dict[str, Tree] = {}
    with tempfile.TemporaryDirectory(prefix="holdfast-") as place:
        for name, said in sources.items():
            if said.git is not None:
                found[name] = await clone(said.git, Path(place) / name, secret).read()
            elif said.directory is not None:
                found[name] = await Directory(Path(said.directory.path)).read()
    return found


def _built(said: declared.Source, settings: Settings, store: Store, secret: Resolve) -> Source:
    if said.directory is not None:
        return Directory(Path(said.directory.path))
    if said.database is not None:
        return Documents(store)
    assert said.git is not None
    place = settings.state.absolute() / "sources" / f"{said.name}-{digest.short(digest.of(said.git.repository))}"
    return clone(said.git, place, secret)
