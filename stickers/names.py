"""The names all floors speak, and the grammars they keep.

A qualified id is ``project/name``: the project is the scope of every name, so ids carry it from the first day.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NewType

InstallationId = NewType("InstallationId", str)
ProjectName = NewType("ProjectName", str)
EnvironmentName = NewType("EnvironmentName", str)
EnvironmentId = NewType("EnvironmentId", str)  # project/environment
TargetName = NewType("TargetName", str)
TargetId = NewType("TargetId", str)  # project/target
ComponentName = NewType("ComponentName", str)
SlotName = NewType("SlotName", str)
ReleaseName = NewType("ReleaseName", str)  # name@version, unique within a project
Digest = NewType("Digest", str)  # sha256:<64 hex>
KeyId = NewType("KeyId", str)
JobId = NewType("JobId", str)  # project/environment:number
TaskId = NewType("TaskId", str)  # job/number
ActionKey = NewType("ActionKey", str)  # 64 hex: the idempotency key of one action
AgentName = NewType("AgentName", str)
EvidenceId = NewType("EvidenceId", str)  # digest of the signed statement

LIVE: Final = SlotName("live")
DEFAULT_PROJECT: Final = ProjectName("default")

NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
VERSION: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,127}")
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?"
_PATH = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
REPOSITORY: Final = re.compile(rf"(?:{_HOST}/)?{_PATH}(?:/{_PATH})*")

NAME_RULE: Final = "lower-case letters, digits and hyphens, at most 63, beginning and ending with a letter or digit"
VERSION_RULE: Final = "letters, digits and . + _ -, at most 128, beginning with a letter or digit"
DIGEST_RULE: Final = "sha256: and 64 lower-case hexadecimal digits"
REPOSITORY_RULE: Final = "an image repository without tag or digest, such as registry.example.com/shop/api"


class InvalidName(ValueError):
    """A text that does not keep the grammar of the name it should be; says what was found and what is expected."""

    def __init__(self, what: str, found: str, expected: str) -> None:
        super().__init__(f"{found[:80]!r} is not a {what}; expected {expected}")
        self.what, self.found, self.expected = what, found, expected


def _checked(what: str, grammar: re.Pattern[str], rule: str, text: str) -> str:
    if not grammar.fullmatch(text):
        raise InvalidName(what, text, rule)
    return text


def name(text: str, what: str = "name") -> str:
    """The text, if it is a name; else `InvalidName`."""
    return _checked(what, NAME, NAME_RULE, text)


def digest(text: str) -> Digest:
    return Digest(_checked("digest", DIGEST, DIGEST_RULE, text))


def release_name(text: str) -> ReleaseName:
    """``name@version``, both parts checked."""
    line, at, version = text.partition("@")
    if not at:
        raise InvalidName("release", text, "name@version, such as shop@2.3.1")
    _checked("release name", NAME, NAME_RULE, line)
    _checked("version", VERSION, VERSION_RULE, version)
    return ReleaseName(text)


def line_and_version(release: ReleaseName) -> tuple[str, str]:
    """The line of releases (``shop``) and the version (``2.3.1``)."""
    line, _, version = release.partition("@")
    return line, version


def environment_id(project: str, environment: str) -> EnvironmentId:
    return EnvironmentId(f"{name(project, 'project')}/{name(environment, 'environment')}")


def target_id(project: str, target: str) -> TargetId:
    return TargetId(f"{name(project, 'project')}/{name(target, 'target')}")


def split_id(qualified: str) -> tuple[ProjectName, str]:
    """Project and name of a qualified id."""
    project, _, rest = qualified.partition("/")
    return ProjectName(project), rest


def job_id(environment: EnvironmentId, number: int) -> JobId:
    return JobId(f"{environment}:{number}")


def environment_of(job: JobId) -> EnvironmentId:
    return EnvironmentId(job.rpartition(":")[0])


@dataclass(frozen=True, slots=True, order=True)
class Artifact:
    """What is deployed, by content: a repository and the digest of one manifest in it."""

    repository: str
    digest: Digest

    @classmethod
    def parse(cls, text: str) -> Artifact:
        """From ``repository@sha256:…``; a tag or a second digest is refused."""
        repository, at, rest = text.partition("@")
        if not at:
            raise InvalidName("pinned image", text, "repository@sha256:<64 hex>")
        _checked("repository", REPOSITORY, REPOSITORY_RULE, repository)
        return cls(repository, digest(rest))

    def __str__(self) -> str:
        return f"{self.repository}@{self.digest}"


@dataclass(frozen=True, slots=True, order=True)
class PlacementId:
    """One component on one target in one slot."""

    target: TargetId
    component: ComponentName
    slot: SlotName = LIVE

    def __str__(self) -> str:
        suffix = "" if self.slot == LIVE else f"[{self.slot}]"
        return f"{self.target}/{self.component}{suffix}"
