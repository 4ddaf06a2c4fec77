"""The file of sources: documents of the one kind `Source`, read as strictly as all others, with the same findings.

apiVersion: holdfast/v1
kind: Source
name: shop
git: {repository: https://git.example.com/shop.git, ref: main, path: deploy, credentials: {secret: env:GIT_TOKEN}}
webhook: {kind: github, secret: {secret: env:WEBHOOK_SECRET}}
statuses: {kind: github, api: https://api.github.com, repository: shop/shop, token: {secret: env:STATUS_TOKEN}}
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Final, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field

from desired_state import scalars, strict, translation
from desired_state.document import Document
from desired_state.findings import Finding, Flaw, Notes, escaped, shown
from desired_state.schema import SecretReference, Strict
from stickers.names import InvalidName

REFERENCE_RULE: Final = "a branch such as main, or a whole reference such as refs/heads/main or refs/tags/v1"
DIRECTORY_RULE: Final = "a directory inside the repository such as deploy/prod, without . and .., a slash at its ends"
REPOSITORY_RULE: Final = "https://host/path, ssh://user@host/path, file:///path, or http:// with insecure: true"
PLACE_RULE: Final = "https://host/path (or http, with insecure: true), without credentials, query and fragment"
SCHEMES: Final = ("https", "ssh", "http", "file")

_REFERENCE: Final = re.compile(r"(?!.*(?:\.\.|//|@\{|\.lock(?:/|$)|/\.))[A-Za-z0-9][A-Za-z0-9._/+-]{0,200}(?<![./])")
_DIRECTORY: Final = re.compile(r"(?!\.{1,2}(?:/|$))[^/\0\n:]+(?:/(?!\.{1,2}(?:/|$))[^/\0\n:]+)*")
_PLAIN: Final = re.compile(r"[!-~]{1,2000}")


def _reference(text: str) -> str:
    if not _REFERENCE.fullmatch(text):
        raise InvalidName("reference", text, REFERENCE_RULE)
    return text


def _directory(text: str) -> str:
    if text and not _DIRECTORY.fullmatch(text):
        raise InvalidName("directory", text, DIRECTORY_RULE)
    return text


def _repository(text: str) -> str:
    found = _split(text)
    with_login = found is not None and (found.password is not None or (found.username and found.scheme != "ssh"))
    if found is None or found.scheme not in SCHEMES or with_login or found.query or found.fragment:
        raise InvalidName("address", "an address", REPOSITORY_RULE)
    if bool(found.hostname) == (found.scheme == "file") or not found.path.startswith("/"):
        raise InvalidName("address", "an address", REPOSITORY_RULE)
    return text


def _place(text: str) -> str:
    found = _split(text)
    if found is None or found.scheme not in ("https", "http") or not found.hostname or "@" in found.netloc:
        raise InvalidName("address", "an address", PLACE_RULE)
    if found.query or found.fragment:
        raise InvalidName("address", "an address", PLACE_RULE)
    return text.rstrip("/")


def _split(text: str) -> SplitResult | None:
    try:
        found = urlsplit(text) if _PLAIN.fullmatch(text) else None
        return found if found is None or found.port is None or found.port > 0 else None
    except ValueError:
        return None


class Verified(Strict):
    """Signatures that are asked for: exactly one of `ssh` and `gpg`."""

    ssh: scalars.File | None = Field(default=None, description="a file of allowed signers (ssh-keygen) on this host")
    gpg: scalars.File | None = Field(default=None, description="a file of public keys (gpg --export) on this host")
    commits: Literal["tip", "all"] = Field(default="tip", description="the newest commit, or all since the accepted")


class GitSource(Strict):
    """A branch of a repository."""

    repository: Annotated[str, AfterValidator(_repository)]
    ref: Annotated[str, AfterValidator(_reference)] = "main"
    path: Annotated[str, AfterValidator(_directory)] = Field(default="", description="where in it; all when left out")
    poll: scalars.Duration = Field(default=timedelta(minutes=1), description="between two fetches (default 1m)")
    deadline: scalars.Duration = Field(default=timedelta(minutes=1), description="of one fetch (default 1m)")
    size: scalars.Size = Field(default=256 << 20, description="of what one fetch brings (default 256Mi)")
    credentials: SecretReference | None = Field(default=None, description="token, user:token, or a private key for ssh")
    username: scalars.User = Field(default="git", description="sent with a token (default git)")
    ca: scalars.File | None = None
    known_hosts: scalars.File | None = Field(default=None, description="host keys that ssh accepts; no others")
    insecure: bool = Field(default=False, description="http:// may be used")
    history: Literal["forward", "any"] = Field(
        default="forward", description="forward: a new commit comes after the last accepted one; any: it need not"
    )
    verify: Verified | None = None


class DirectorySource(Strict):
    """A directory of this host, watched."""

    path: scalars.File


class DatabaseSource(Strict):
    """What `holdfast apply` and the API have written."""


class Webhook(Strict):
    """Who may say "look again". While a secret is changed, both are taken."""

    kind: Literal["github", "gitlab", "gitea", "generic"]
    secret: SecretReference
    previous: SecretReference | None = None


class Statuses(Strict):
    """Where it is said of each commit what became of it."""

    kind: Literal["github", "gitlab", "gitea"]
    api: Annotated[str, AfterValidator(_place)] = Field(description="such as https://api.github.com")
    repository: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", max_length=300)] = Field(
        description="owner/name, or the number of a GitLab project"
    )
    token: SecretReference
    context: scalars.Name = Field(default="holdfast", description="what statuses begin with (default holdfast)")
    link: Annotated[str, AfterValidator(_place)] | None = Field(default=None, description="of the dashboard")
    ca: scalars.File | None = None
    insecure: bool = False


class Source(Strict):
    """Where documents of some environments come from: exactly one of `git`, `directory` and `database`."""

    api_version: Literal["holdfast/v1"] = Field(alias="apiVersion")
    kind: Literal["Source"]
    name: scalars.Name
    git: GitSource | None = None
    directory: DirectorySource | None = None
    database: DatabaseSource | None = None
    stale: scalars.Duration = Field(default=timedelta(minutes=15), description="older is an alarm (default 15m)")
    webhook: Webhook | None = None
    statuses: Statuses | None = None

    @property
    def describes(self) -> str:
        """Where it is, for people."""
        if self.git is not None:
            return f"{self.git.repository} {self.git.ref}" + (f" {self.git.path}" if self.git.path else "")
        return self.directory.path if self.directory is not None else "database"

    @property
    def type(self) -> str:
        return next(kind for kind in KINDS if getattr(self, kind) is not None)


KINDS: Final = ("git", "directory", "database")


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    sources: tuple[Source, ...] = ()
    findings: tuple[Finding, ...] = ()


def read(file: str, content: bytes) -> Declared:
    """Everything that the file declares, or everything that is wrong with it."""
    notes = Notes()
    found: dict[str, Source] = {}
    for document in strict.read(file, content, notes):
        if flaw := _kind_flaw(document, notes):
            notes.add(document.finding(flaw))
            continue
        said = translation.read(document, Source, notes)
        if said is not None:
            for flaw in _flaws(said, found):
                notes.add(document.finding(flaw))
            found.setdefault(said.name, said)
    findings = notes.sorted()
    return Declared(sources=() if findings else tuple(found.values()), findings=findings)


def _kind_flaw(document: Document, notes: Notes) -> Flaw | None:
    kind = document.content.get("kind")
    if not isinstance(kind, str) or kind == "Source":
        return None
    nearest = notes.nearest(kind, ["Source"])
    found, expected = shown(kind, ("kind",)), "Source: other documents stand in the sources themselves"
    return Flaw(code="KIND_UNKNOWN", path=("kind",), found=found, expected=expected, nearest=nearest)


def _flaws(said: Source, others: dict[str, Source]) -> Iterator[Flaw]:
    """What is wrong between fields that are each right."""
    if said.name in others:
        found = f"the source {escaped(said.name)} a second time"
        yield Flaw(code="DECLARED_TWICE", path=("name",), found=found, expected="a name of its own")
    kinds = [kind for kind in KINDS if getattr(said, kind) is not None]
    if len(kinds) != 1:
        found = " and ".join(kinds) or "none"
        yield Flaw(code="SOURCE_KIND", path=(), found=found, expected=f"exactly one of {', '.join(KINDS)}")
    if "database" in kinds and any(other.database is not None for other in others.values()):
        yield Flaw(code="DECLARED_TWICE", path=("database",), found="a second database source", expected="one")
    for name in ("webhook", "statuses"):
        if getattr(said, name) is not None and said.git is None:
            yield Flaw(code="GIT_ONLY", path=(name,), found=f"{name} without git", expected="git", key=True)
    if said.git is not None:
        yield from _git_flaws(said.git)
    if said.statuses is not None and urlsplit(said.statuses.api).scheme == "http" and not said.statuses.insecure:
        yield _insecure("statuses", "api")


def _git_flaws(git: GitSource) -> Iterator[Flaw]:
    scheme = urlsplit(git.repository).scheme
    if scheme == "http" and not git.insecure:
        yield _insecure("git", "repository")
    if scheme == "ssh" and git.known_hosts is None:
        path, expected = ("git", "known_hosts"), "a file of the host's keys: no other host is talked to"
        yield Flaw(code="KEY_MISSING", path=path, found="nothing", expected=expected)
    if scheme == "file" and git.credentials is not None:
        yield Flaw(code="NOT_USED", path=("git", "credentials"), found="credentials", expected="none for file://")
    for name in ("known_hosts", "ca"):
        value = getattr(git, name)
        if value is not None and '"' in value:
            yield Flaw(code="BAD_FILE", path=("git", name), found="a quote in it", expected="a path without quotes")
    if git.verify is not None and (git.verify.ssh is None) == (git.verify.gpg is None):
        path, expected = ("git", "verify"), "exactly one of ssh and gpg"
        yield Flaw(code="VERIFY_KIND", path=path, found="both or none", expected=expected)


def _insecure(*path: str) -> Flaw:
    return Flaw(code="INSECURE", path=path, found="http://", expected="https://, or insecure: true beside it")
