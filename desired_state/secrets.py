"""Secrets as declared: a reference, never a value; and which references there are."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRef:
    """`backend:path` or `backend:path#field`. `version` is part of the configuration digest: raising it redeploys.

    The value is resolved inside `apply`, at the moment of use, and nowhere else. A backend that keeps versions answers
    with the declared one.
    """

    reference: str
    version: str | None = None

    @property
    def backend(self) -> str:
        return self.reference.partition(":")[0]

    @property
    def path(self) -> str:
        return self.reference.partition(":")[2].partition("#")[0]

    @property
    def field(self) -> str | None:
        return self.reference.partition("#")[2] or None


Resolve = Callable[[SecretRef], Awaitable[str]]  # the value, at the moment of use


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretFile:
    """A secret that a workload finds in a file, in memory and never on a disk. `path` None: where its runtime puts it,
    under the name."""

    name: str
    secret: SecretRef
    path: str | None = None

    @property
    def inside(self) -> str:
        """Where it is in a container."""
        return self.path or f"/run/secrets/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """How a backend is referred to. `version` None: it keeps no versions, and any text may be declared as one."""

    rule: str
    reference: str
    version: str | None = None
    version_rule: str = ""


_FIELD: Final = r"#[^#]+"
_STEP: Final = r"(?!\.{1,2}(?:[/#]|$))[^/#?%\\\s]+"

GRAMMARS: Final[Mapping[str, Grammar]] = MappingProxyType(
    {
        "env": Grammar(rule="env:NAME", reference=r"env:[A-Za-z_][A-Za-z0-9_]*"),
        "file": Grammar(rule="file:/path, file:/path#field", reference=rf"file:/[^#]*(?:{_FIELD})?"),
        "vault": Grammar(
            rule="vault:mount/path#field",
            reference=rf"vault:{_STEP}(?:/{_STEP})+{_FIELD}",
            version=r"[1-9][0-9]{0,8}",
            version_rule="the number of a version",
        ),
        "aws-sm": Grammar(
            rule="aws-sm:name, aws-sm:name#field",
            reference=rf"aws-sm:[A-Za-z0-9/_+=.@:-]{{1,512}}(?:{_FIELD})?",
            version=r"[A-Za-z0-9._-]{1,256}",
            version_rule="a version's id, or a stage such as AWSPREVIOUS",
        ),
        "aws-ssm": Grammar(
            rule="aws-ssm:/path, aws-ssm:/path#field",
            reference=rf"aws-ssm:(?:/[A-Za-z0-9_.-]+)+(?:{_FIELD})?",
            version=r"[1-9][0-9]{0,8}|[A-Za-z_][A-Za-z0-9_.-]{0,99}",
            version_rule="the number of a version, or a label",
        ),
        "sops": Grammar(rule="sops:/path#field", reference=rf"sops:/[^#]+{_FIELD}"),
    }
)

REFERENCE: Final = re.compile("|".join(grammar.reference for grammar in GRAMMARS.values()))


def rule(backend: str) -> str:
    """How references to the backend are written; to any, when there is none of that name."""
    known = GRAMMARS.get(backend)
    written = [known.rule] if known else [grammar.rule for grammar in GRAMMARS.values()]
    head, _, last = ", ".join(written).rpartition(", ")
    return f"{head} or {last}" if head else last
