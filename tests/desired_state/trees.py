"""Trees of documents for tests, and short ways to load them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, model_validator

from desired_state.load import load
from desired_state.model import DesiredState
from desired_state.resolve import Resolved
from desired_state.sources.base import Tree
from stickers.names import EnvironmentId


class Tls(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    ca: str
    key: str | None = None


class ShipConnection(BaseModel):
    """The connection of a runtime that exists in tests only."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    via: str = "local"
    hull: str
    tls: Tls | None = None
    password: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> ShipConnection:
        if self.hull == "glass" and self.tls is None:
            raise ValueError("expected tls for a hull of glass")
        return self


class BoatConnection(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    via: str = "local"
    oars: int = 2


CONNECTIONS: dict[str, type[BaseModel]] = {"ship": ShipConnection, "boat": BoatConnection}

DIGEST_A = "sha256:" + "a" * 64
DIGEST_B = "sha256:" + "b" * 64

RELEASE = f"""\
apiVersion: holdfast/v1
kind: Release
name: shop
version: "1"
components:
  api: registry.example.com/shop/api@{DIGEST_A}
  web: {{image: registry.example.com/shop/web, digest: "{DIGEST_B}", resolved_from: v1}}
"""
ENVIRONMENT = """\
apiVersion: holdfast/v1
kind: Environment
name: staging
release: shop@1
"""
TARGET = """\
apiVersion: holdfast/v1
kind: Target
name: t1
environment: staging
driver: boat
"""


def joined(*documents: str) -> str:
    return "---\n".join(documents)


def resolved(*documents: str) -> Resolved:
    """One file of these documents, loaded."""
    return resolved_files({"f.yaml": joined(*documents)})


def resolved_files(files: dict[str, str | bytes]) -> Resolved:
    content = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
    return load(Tree(files=content, revision="r1"), CONNECTIONS)


def found(*documents: str) -> list[str]:
    """The findings of one file, as lines."""
    return [str(finding) for finding in resolved(*documents).findings]


def codes(*documents: str) -> list[str]:
    return [finding.code for finding in resolved(*documents).findings]


def state(*documents: str, environment: str = "default/staging") -> DesiredState:
    """The desired state of documents without findings."""
    what = resolved(*documents)
    assert what.findings == (), "\n".join(map(str, what.findings))
    return what.environments[EnvironmentId(environment)]
