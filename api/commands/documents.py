"""Commands about documents that the database owns: written as a whole or not at all, checked as those of every source
are, and given back as YAML."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import yaml
from anyio import to_thread
from sqlalchemy import Connection

from api.commands.given import Given
from api.house import House
from api.people.principal import Verb, authorise
from api.problem import Problem
from api.runtimes import ConnectionModels
from desired_state import strict
from desired_state.document import Document
from desired_state.findings import Finding, Flaw, Notes, escaped
from desired_state.load import load
from desired_state.resolve import Resolved
from desired_state.sources.base import Tree
from reconciler.store import audit, documents, environments
from reconciler.store.documents import DocumentRow, Name
from reconciler.store.records import EnvironmentRow
from stickers import digest
from stickers.names import EnvironmentId

Events = AsyncGenerator[dict[str, Any], None]

FILES: Final = 2_000
SHOWN: Final = 3
PROJECT: Final = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """What the database holds at one moment, and who owns which environment."""

    revision: int
    rows: tuple[DocumentRow, ...]
    environments: tuple[EnvironmentRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """What was sent: documents by name, where each stands, and the whole tree that there would be."""

    documents: Mapping[Name, Document]
    tree: Tree
    gone: tuple[Name, ...] = ()


async def apply(house: House, given: Given) -> Events:
    """Write documents. Arguments: `files`, a map from names to texts; `dry_run`; `remove`, to take them out instead;
    `revision`, which the database must still be at."""
    source = owning(house)
    held = await house.store.read(_held)
    expected = given.count("revision", held.revision, 1 << 60, least=0)
    if expected != held.revision:
        raise Problem("STALE", f"the documents are at revision {held.revision}, not {expected}: export them again")
    files = _files(given)
    resolved, offer = await to_thread.run_sync(_checked, held, files, given.flag("remove"), source, set(house.sources))
    if resolved.findings:
        raise _findings(resolved.findings)
    changes = _changes(held, offer)
    touched = _touched(held, offer)
    for environment in touched:
        authorise(given.principal, Verb.TARGET_EDIT, environment)
    answer = {"changes": changes, "environments": touched, "revision": held.revision, "dry_run": given.flag("dry_run")}
    if changes and not given.flag("dry_run"):
        bodies = {key: _body(document.content) for key, document in offer.documents.items()}
        now, actor = house.now(), given.actor

        def written(c: Connection) -> int:
            for environment in touched:
                audit.append(
                    c,
                    environment=environment,
                    actor=actor,
                    action="documents.written",
                    subject=environment,
                    detail={"revision": held.revision + 1, "changes": changes},
                    now=now,
                )
            return documents.write(c, bodies, offer.gone, expected=held.revision, actor=actor, now=now)

        answer["revision"] = await house.store.write(written)
        reading = await house.reconciler.read(source)
        answer["fault"] = digest.plain(reading.fault) if reading.fault else None
    yield {"result": answer}


async def export(house: House, given: Given) -> Events:
    """The documents as YAML texts by the name of a file; all, or those of one environment."""
    wanted = given.environment_or_none()
    if wanted is not None:
        authorise(given.principal, Verb.READ, wanted)
    held = await house.store.read(_held)
    rows = [row for row in held.rows if _is_seen(row, held, given)]
    if wanted is not None:
        rows = list(_of(rows, wanted))
        if not rows:
            raise _not_here(held, wanted)
    yield {"result": {"revision": held.revision, "files": {row.file: row.body for row in rows}}}


def owning(house: House) -> str:
    """The source that is the database."""
    for name, said in house.sources.items():
        if said.database is not None:
            return name
    raise Problem(
        "NO_DATABASE_SOURCE",
        "no source is the database; declare one in the file that HOLDFAST_SOURCES names: "
        "{apiVersion: holdfast/v1, kind: Source, name: team, database: {}}",
    )


def _held(c: Connection) -> _Held:
    return _Held(revision=documents.revision(c), rows=documents.all(c), environments=environments.all(c))


def _files(given: Given) -> dict[str, bytes]:
    value = given.map("files")
    if not value or len(value) > FILES or any(not isinstance(text, str) for text in value.values()):
        raise Problem("BAD_ARGUMENT", f"files is not a map from names to texts, of 1 to {FILES}")
    return {name: text.encode(errors="replace") for name, text in value.items()}


# -- what it would mean -----------------------------------------------------------------------------------------------


def _checked(
    held: _Held, files: Mapping[str, bytes], remove: bool, source: str, configured: set[str]
) -> tuple[Resolved, _Offer]:
    """Findings stand where they were made: in the files that were sent, or in what is there already."""
    notes = Notes()
    sent = [document for name, content in files.items() for document in strict.read(name, content, notes)]
    named = {key: document for document in sent if (key := _name(document)) is not None}
    for document in sent if not remove else ():
        for flaw in _flaws(document, held, source, configured):
            notes.add(document.finding(flaw))
    kept = {row.file: row.body.encode() for row in held.rows if row.key not in named}
    tree = Tree(files=kept if remove else kept | _apart(files, kept), revision=str(held.revision))
    offer = _Offer(documents={} if remove else named, tree=tree, gone=tuple(named) if remove else ())
    if remove and not kept:
        return Resolved(revision=tree.revision, findings=notes.sorted()), offer
    resolved = load(tree, ConnectionModels())
    found = sorted({*notes.sorted(), *resolved.findings})
    if not remove and len(named) < len(sent) and not found:
        found = [Finding(file="", line=1, column=1, path="", code="UNNAMED", found="no name", expected="a name")]
    return replace(resolved, findings=tuple(found)), offer


def _apart(files: Mapping[str, bytes], kept: Mapping[str, bytes]) -> dict[str, bytes]:
    """A file that is named like one of the database's is another."""
    return {f"{name} (sent)" if name in kept else name: content for name, content in files.items()}


def _name(document: Document) -> Name | None:
    content = document.content
    kind, project, name = content.get("kind"), content.get("project", PROJECT), content.get("name")
    if kind == "Release":
        name = f"{name}@{content.get('version')}"
    known = isinstance(kind, str) and isinstance(project, str) and isinstance(name, str)
    return (str(kind), str(project), str(name)) if known else None


def _flaws(document: Document, held: _Held, source: str, configured: set[str]) -> Iterator[Flaw]:
    key = _name(document)
    if key is None:
        return
    kind, project, name = key
    before = next((row for row in held.rows if row.key == key), None)
    if kind == "Release" and before is not None and yaml.safe_load(before.body) != _plain(document.content):
        found, expected = f"the release {escaped(name)} with another content", "a new version: a release never changes"
        yield Flaw(code="RELEASE_CHANGED", path=("version",), found=found, expected=expected)
    owner = next(
        (row.source for row in held.environments if row.id == f"{project}/{name}" and not row.undeclared_at), ""
    )
    if kind == "Environment" and owner not in ("", source) and owner in configured:
        found = f"an environment that the source {escaped(owner)} owns"
        yield Flaw(code="OWNED_TWICE", path=("name",), found=found, expected="one that no other source declares")


def _findings(findings: tuple[Finding, ...]) -> Problem:
    shown = "; ".join(map(str, findings[:SHOWN]))
    more = f"; and {len(findings) - SHOWN} more" if len(findings) > SHOWN else ""
    return Problem(
        "FINDINGS", f"nothing was written: {shown}{more}", findings=[digest.plain(finding) for finding in findings]
    )


# -- what it changes --------------------------------------------------------------------------------------------------


def _changes(held: _Held, offer: _Offer) -> list[dict[str, Any]]:
    before = {row.key: row.body for row in held.rows}
    changed = [
        (key, "changed" if key in before else "created")
        for key, document in offer.documents.items()
        if before.get(key) != _body(document.content)
    ]
    gone = [(key, "removed") for key in offer.gone if key in before]
    return [{"kind": key[0], "project": key[1], "name": key[2], "change": what} for key, what in (*changed, *gone)]


def _touched(held: _Held, offer: _Offer) -> list[EnvironmentId]:
    """Environments that the documents are of, as they were and as they would be."""
    after = {key: document.content for key, document in offer.documents.items()}
    before = {row.key: yaml.safe_load(row.body) for row in held.rows if row.key in after or row.key in offer.gone}
    found = {of for contents in (before, after) for key, content in contents.items() if (of := _owner(key, content))}
    releases = {(key[1], key[2]) for key in (*after, *offer.gone) if key[0] == "Release"}
    for row in held.rows:
        content = yaml.safe_load(row.body) if row.kind == "Environment" else {}
        if (row.project, content.get("release")) in releases:
            found.add(EnvironmentId(f"{row.project}/{row.name}"))
    return sorted(found)


def _owner(key: Name, content: Mapping[str, Any]) -> EnvironmentId | None:
    kind, project, name = key
    if kind == "Environment":
        return EnvironmentId(f"{project}/{name}")
    return EnvironmentId(f"{project}/{content.get('environment')}") if kind == "Target" else None


def _body(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(_plain(content), sort_keys=False, allow_unicode=True, width=120)


def _plain(node: Any) -> Any:
    """Without where each part of it stood."""
    if isinstance(node, dict):
        return {str(key): _plain(item) for key, item in node.items()}
    return [_plain(item) for item in node] if isinstance(node, list) else node


# -- what is given back -----------------------------------------------------------------------------------------------


def _of(rows: Iterable[DocumentRow], wanted: EnvironmentId) -> Iterator[DocumentRow]:
    """The environment, its targets, and the release that it names."""
    read = {row.key: yaml.safe_load(row.body) for row in rows}
    project, _, name = wanted.partition("/")
    release = read.get(("Environment", project, name), {}).get("release")
    for row in rows:
        if _owner(row.key, read[row.key]) == wanted or row.key == ("Release", project, release):
            yield row


def _is_seen(row: DocumentRow, held: _Held, given: Given) -> bool:
    """Releases are seen by whoever sees an environment of their project."""
    owner = _owner(row.key, yaml.safe_load(row.body))
    if owner is not None:
        return given.sees(owner)
    return any(given.sees(each.id) for each in held.environments if each.id.startswith(f"{row.project}/"))


def _not_here(held: _Held, wanted: EnvironmentId) -> Problem:
    owner = next((row.source for row in held.environments if row.id == wanted), None)
    if owner:
        return Problem("OWNED_ELSEWHERE", f"{wanted} is declared by the source {owner}: its documents are there")
    return Problem("NO_ENVIRONMENT", f"the database holds no environment {wanted}")
