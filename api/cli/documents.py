"""Commands about documents and artifacts; none of them needs a daemon."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from api.cli import show
from api.problem import ERROR, OK, Problem
from api.settings import Settings

if TYPE_CHECKING:
    from desired_state.resolve import Resolved
    from desired_state.secrets import SecretRef
    from stickers.names import Artifact

SHOWN = 20  # findings a person reads before mending the first; `--output json` has all of them


def init(settings: Settings, given: Namespace) -> int:
    from api.starter import beside
    from desired_state.starter import starter

    directory = Path(given.directory)
    files = {**starter(), **beside()}
    if taken := [name for name in files if (directory / name).exists()]:
        raise Problem("EXISTS", f"{directory / taken[0]} exists already; nothing was written")
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    if given.output == "json":
        show.as_json({"directory": str(directory), "files": list(files)})
        return OK
    for name in files:
        print(f"wrote {directory / name}")
    print(f"\nNext: holdfast validate {directory}; holdfast keys init; holdfast run --documents {directory}")
    return OK


def validate(settings: Settings, given: Namespace) -> int:
    if settings.sources is not None and not given.directory:
        return _sources(settings, given)
    directory = Path(given.directory) if given.directory else settings.documents
    resolved = load(directory)
    if given.output == "json":
        show.as_json(_validated(directory, resolved))
    else:
        _print_findings(directory, resolved)
    return ERROR if resolved.findings else OK


def _sources(settings: Settings, given: Namespace) -> int:
    """The file of sources; what stands in them is checked where it stands."""
    from api import sources

    found = sources.read(settings)
    if given.output == "json":
        show.as_json({"sources": {name: {"type": said.type, "where": said.describes} for name, said in found.items()}})
        return OK
    print(f"{len(found)} sources, no findings")
    for name, said in found.items():
        print(f"  {name}: {said.type}, {show.clean(said.describes)}")
    return OK


def load(directory: Path) -> Resolved:
    import anyio

    from api.runtimes import ConnectionModels
    from desired_state import load as trees
    from desired_state.sources.base import SourceUnavailable
    from desired_state.sources.directory import Directory

    try:
        return trees.load(anyio.run(Directory(directory).read), ConnectionModels())
    except SourceUnavailable as error:
        raise Problem("NO_DOCUMENTS", str(error)) from None


def _validated(directory: Path, resolved: Resolved) -> dict[str, Any]:
    from stickers import digest

    return {
        "directory": str(directory),
        "documents": resolved.documents,
        "findings": [digest.plain(finding) for finding in resolved.findings],
        "environments": {
            id: {"release": state.environment.release, "targets": len(state.targets), "digest": state.digest}
            for id, state in resolved.environments.items()
        },
    }


def _print_findings(directory: Path, resolved: Resolved) -> None:
    import sys

    for finding in resolved.findings[:SHOWN]:
        print(f"{directory}/{finding}", file=sys.stderr)
    if len(resolved.findings) > SHOWN:
        print(f"and {len(resolved.findings) - SHOWN} more; --output json shows them all", file=sys.stderr)
    if not resolved.findings:
        print(f"{resolved.documents} documents, no findings")
        for id, state in resolved.environments.items():
            print(f"  {id}: {state.environment.release} on {len(state.targets)} targets")


def schema(settings: Settings, given: Namespace) -> int:
    from api.runtimes import ConnectionModels
    from desired_state.json_schema import json_schema

    show.as_json(json_schema(ConnectionModels()))
    return OK


def release_create(settings: Settings, given: Namespace) -> int:
    from stickers import names

    try:
        release, project = names.release_name(given.release), names.name(given.project, "project")
        wanted = [_component(text) for text in given.components]
    except names.InvalidName as error:
        raise Problem("BAD_ARGUMENT", str(error)) from None
    logins = dict(map(_login, given.credentials))
    artifacts = {component: _resolved(reference, given.insecure, logins) for component, reference in wanted}
    document = _release_document(project, release, given, artifacts)
    return _written(given, document)


def _component(text: str) -> tuple[str, str]:
    from stickers import names

    component, equals, reference = text.partition("=")
    if not equals or not reference:
        raise Problem(
            "BAD_ARGUMENT", f"{text[:80]!r} is no component; expected COMPONENT=IMAGE, api=registry.example/api:v1"
        )
    return names.name(component, "component"), reference


def _login(text: str) -> tuple[str, SecretRef]:
    """A registry, and where its credentials are kept."""
    from desired_state import scalars
    from desired_state.secrets import SecretRef

    host, _, reference = text.partition("=")
    try:
        return host, SecretRef(reference=scalars.secret(reference))
    except ValueError as error:
        raise Problem(
            "BAD_ARGUMENT", f"{text[:80]!r} names no credentials; expected HOST=REFERENCE, a secret: {error}"
        ) from None


def _resolved(reference: str, insecure: list[str], logins: dict[str, SecretRef]) -> tuple[Artifact, str | None]:
    """The artifact of a reference, and the tag it was resolved from."""
    import anyio

    from drivers.errors import DriverError
    from stickers.names import Artifact, InvalidName

    if "@" in reference:
        try:
            return Artifact.parse(reference), None
        except InvalidName as error:
            raise Problem("BAD_ARGUMENT", str(error)) from None
    login = logins.get(reference.partition("/")[0])
    try:
        return anyio.run(_asked, reference, frozenset(insecure), login), reference.rpartition(":")[2]
    except DriverError as error:
        raise Problem(error.code, f"{reference}: {error}") from None


async def _asked(reference: str, insecure: frozenset[str], login: SecretRef | None) -> Artifact:
    from contextlib import aclosing

    from drivers.oci import registry
    from drivers.oci.credentials import Credentials
    from drivers.secrets.resolver import Resolver
    from stickers.redaction import Redactor

    async with aclosing(Resolver(Redactor())) as secret:
        credentials = Credentials.parse(await secret(login)) if login else None
    return await registry.resolve_tag(reference, registry.Access(credentials=credentials, insecure=insecure))


def _release_document(
    project: str, release: str, given: Namespace, artifacts: dict[str, tuple[Artifact, str | None]]
) -> dict[str, Any]:
    name, _, version = release.partition("@")
    source = {key: value for key, value in (("repository", given.source), ("commit", given.commit)) if value}
    components = {
        component: {"image": artifact.repository, "digest": artifact.digest} | ({"resolved_from": tag} if tag else {})
        for component, (artifact, tag) in artifacts.items()
    }
    head = {"apiVersion": "holdfast/v1", "kind": "Release", "project": project, "name": name, "version": version}
    return head | ({"source": source} if source else {}) | {"components": components}


def _written(given: Namespace, document: dict[str, Any]) -> int:
    import yaml

    text = yaml.safe_dump(document, sort_keys=False, default_style=None)
    if not given.file:
        if given.output == "json":
            show.as_json(document)
        else:
            print(text, end="")
        return OK
    try:
        with Path(given.file).open("x") as file:
            file.write(text)
    except FileExistsError:
        raise Problem(
            "EXISTS", f"{given.file} exists already; a release never changes, give it another version"
        ) from None
    except OSError as error:
        raise Problem("NO_FILE", f"{given.file}: {error.strerror}") from None
    print(f"wrote {given.file}")
    return OK


def artifact_pack(settings: Settings, given: Namespace) -> int:
    from drivers.errors import DriverError
    from drivers.oci.layout import pack

    try:
        digest = pack(Path(given.directory), Path(given.layout))
    except DriverError as error:
        raise Problem(error.code, str(error)) from None
    except OSError as error:
        raise Problem("NO_FILE", f"{error.filename or given.directory}: {error.strerror}") from None
    if given.output == "json":
        show.as_json({"digest": digest, "layout": given.layout})
    else:
        print(digest)
    return OK
