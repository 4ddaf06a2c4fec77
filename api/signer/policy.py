"""What the signer may sign, as its own file says it: read as strictly as documents, with the same findings.

apiVersion: holdfast/v1
kind: SignerPolicy
ask: {users: [holdfast]}                      # who may ask, by the uid at the other end of the socket
documents: {directory: /etc/holdfast/documents}   # or {sources: /etc/holdfast-signer/sources.yaml}
rules:
  - name: staging
    environments: [default/staging]
    verbs: [deploy, rollback, write-sticker, inspect, read-log, examine]
    repositories: ["registry.example.com/shop/*"]
    per_minute: 60

A task is signed if one rule lets it. With `documents`, a placement is signed only if it is, or once was, declared
there, whatever a rule says; without, each rule that deploys names its repositories.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from api.problem import Problem
from desired_state import scalars, strict, translation
from desired_state.findings import Finding, Flaw, Notes, escaped
from desired_state.schema import Strict
from drivers.agent.protocol import Task, Verb
from stickers.names import InvalidName

NAME: Final = "policy.yaml"
DEPLOYING: Final = frozenset({Verb.DEPLOY, Verb.ROLLBACK, Verb.WRITE_STICKER})

_PATTERN: Final = re.compile(r"[a-z0-9*-]+(?:/[a-z0-9*-]+)?")
_NAMES: Final = re.compile(r"[A-Za-z0-9*._-]{1,100}")
_REPOSITORIES: Final = re.compile(r"[A-Za-z0-9*][A-Za-z0-9*./:_-]{0,300}")


def _pattern(text: str) -> str:
    if not _PATTERN.fullmatch(text):
        raise InvalidName("pattern", text, "project/name with * for any letters, such as default/web-*")
    return text


def _names(text: str) -> str:
    if not _NAMES.fullmatch(text):
        raise InvalidName("pattern", text, "a name with * for any letters")
    return text


def _repositories(text: str) -> str:
    if not _REPOSITORIES.fullmatch(text):
        raise InvalidName("pattern", text, "a repository with * for any letters, such as registry.example.com/shop/*")
    return text


def _verb(text: str) -> Verb:
    if text not in set(Verb):
        raise InvalidName("verb", text, f"one of {', '.join(Verb)}")
    return Verb(text)


Patterns = Annotated[list[Annotated[str, AfterValidator(_pattern)]], Field(min_length=1, max_length=100)]
Names = Annotated[list[Annotated[str, AfterValidator(_names)]], Field(max_length=100)]
Repositories = Annotated[list[Annotated[str, AfterValidator(_repositories)]], Field(max_length=100)]
Verbs = Annotated[list[Annotated[str, AfterValidator(_verb)]], Field(min_length=1, max_length=100)]
Who = Annotated[list[str | Annotated[int, Field(ge=0)]], Field(max_length=100)]


class Rule(Strict):
    """What may be signed for which targets. `hold` is the longest that an agent may go on by itself; `commands` and
    `uploads` are names that hosts have given to theirs. `per_minute` bounds what changes something."""

    name: scalars.Name
    environments: Patterns
    agents: Names = ["*"]  # noqa: RUF012 - never changed
    targets: Patterns = ["*"]  # noqa: RUF012
    verbs: Verbs
    repositories: Repositories | None = None
    commands: Names = []  # noqa: RUF012
    uploads: Names = []  # noqa: RUF012
    hold: scalars.Duration = timedelta(0)
    per_minute: Annotated[int, Field(ge=1, le=1_000_000)] = 600

    def is_about(self, task: Task) -> bool:
        return (
            fits(self.environments, task.environment)
            and fits(self.agents, task.agent)
            and fits(self.targets, task.target)
        )

    def lets(self, verb: Verb) -> bool:
        return verb in self.verbs

    def lets_repository(self, repository: str) -> bool:
        return self.repositories is None or fits(self.repositories, repository)


class Asking(Strict):
    """Who may ask: users by name or number, and groups that are somebody's own."""

    users: Who = []  # noqa: RUF012
    groups: Who = []  # noqa: RUF012


class Documents(Strict):
    """Where what may be deployed is declared: exactly one of a directory and a file of sources, as the daemon has."""

    directory: scalars.File | None = None
    sources: scalars.File | None = None


class Policy(Strict):
    api_version: Literal["holdfast/v1"] = Field(alias="apiVersion")
    kind: Literal["SignerPolicy"]
    ask: Asking
    documents: Documents | None = None
    rules: Annotated[list[Rule], Field(min_length=1, max_length=1000)]


def fits(patterns: list[str], text: str) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


def parsed(file: str, content: bytes) -> tuple[Policy | None, tuple[Finding, ...]]:
    """The policy, or everything that is wrong with it."""
    notes = Notes()
    documents = strict.read(file, content, notes)
    if len(documents) != 1 and not notes.sorted():
        raise Problem("POLICY_INVALID", f"{file}: expected one document of kind SignerPolicy, found {len(documents)}")
    found = [translation.read(document, Policy, notes) for document in documents]
    for document, policy in zip(documents, found, strict=True):
        if policy is not None:
            for flaw in _flaws(policy):
                notes.add(document.finding(flaw))
    findings = notes.sorted()
    return (None if findings else found[0]), findings


def read(path: Path) -> Policy:
    """What the file says. Raises `Problem` with every finding."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Problem(
            "NO_POLICY", f"{path}: {error.strerror}; `holdfast signer init` writes one to begin with"
        ) from None
    policy, findings = parsed(str(path), content)
    if policy is None:
        from stickers import digest

        plain = [digest.plain(finding) for finding in findings]
        raise Problem("POLICY_INVALID", "; ".join(map(str, findings[:20])), findings=plain)
    return policy


def _flaws(policy: Policy) -> Iterator[Flaw]:
    """What is wrong between fields that are each right."""
    if not policy.ask.users and not policy.ask.groups:
        yield Flaw(code="NOBODY_ASKS", path=("ask",), found="nobody", expected="users or groups that may ask")
    if policy.documents is not None and (policy.documents.directory is None) == (policy.documents.sources is None):
        expected = "exactly one of directory and sources"
        yield Flaw(code="DOCUMENTS_KIND", path=("documents",), found="both or none", expected=expected)
    names: set[str] = set()
    for number, rule in enumerate(policy.rules):
        if rule.name in names:
            found = f"the rule {escaped(rule.name)} a second time"
            yield Flaw(code="DECLARED_TWICE", path=("rules", number, "name"), found=found, expected="a name of its own")
        names.add(rule.name)
        yield from _rule_flaws(rule, number, documents=policy.documents is not None)


def _rule_flaws(rule: Rule, number: int, *, documents: bool) -> Iterator[Flaw]:
    verbs = set(rule.verbs)
    if not documents and rule.repositories is None and verbs & DEPLOYING:
        expected = "the repositories that may be deployed, or documents beside the rules"
        yield Flaw(code="KEY_MISSING", path=("rules", number, "repositories"), found="nothing", expected=expected)
    for verb, field, has in (
        (Verb.EXECUTE_COMMAND, "commands", bool(rule.commands)),
        (Verb.UPLOAD_FILES, "uploads", bool(rule.uploads)),
        (Verb.HOLD, "hold", bool(rule.hold)),
    ):
        if (verb in verbs) != has:
            found = f"{verb} without {field}" if verb in verbs else f"{field} without {verb} among the verbs"
            yield Flaw(code="NOT_WHOLE", path=("rules", number), found=found, expected="both or none")
