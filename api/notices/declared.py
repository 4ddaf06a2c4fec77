"""The file that says who is told what: read by the same strict loader as the documents, with the same findings."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from api.problem import Problem
from desired_state import scalars, strict, translation
from desired_state.findings import Notes
from desired_state.schema import PortNumber, SecretReference, Strict, Text
from desired_state.secrets import SecretRef
from stickers.names import InvalidName

SCHEMES: Final = ("https://", "http://")


class Kind(StrEnum):
    """What may be told."""

    DRIFT = "drift"
    UNKNOWN = "unknown"
    DISTRUST = "distrust"  # a forged or a replayed sticker
    FAILED = "failed"  # a job
    ROLLED_BACK = "rolled-back"
    LOCKED = "locked"  # an agent, by a person or because its identity was copied


def _url(text: str) -> str:
    rest = next((text.removeprefix(scheme) for scheme in SCHEMES if text.startswith(scheme)), "")
    host = rest.partition("/")[0]
    if not host or "@" in host or not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidName("address", text, "https://HOST/PATH, without a name or a password in it")
    return text


Url = Annotated[str, Field(max_length=2000), AfterValidator(_url)]
Address = Annotated[str, Field(pattern=r"^[^\s@<>,;]+@[^\s@<>,;]+$", max_length=320)]


class Webhook(Strict):
    """JSON by POST. With a secret each is signed: `Holdfast-Signature: sha256=…` over time, dot and body."""

    url: Url
    secret: SecretReference | None = None


class Slack(Strict):
    """An incoming webhook of Slack, or of what speaks like it. Its address is a secret."""

    url: SecretReference


class Mail(Strict):
    """SMTP, with STARTTLS unless it is `tls` from the first byte; `none` only to this very host."""

    host: Text
    port: PortNumber = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    sender: Annotated[Address, Field(alias="from")]
    to: Annotated[list[Address], Field(min_length=1, max_length=50)]
    user: Text | None = None
    password: SecretReference | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Mail:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password belong together")
        if self.security == "none" and self.host not in ("localhost", "127.0.0.1", "::1"):
            raise ValueError("security: none sends mail in the clear; only to localhost")
        return self


class Channel(Strict):
    """One way to tell people: exactly one of webhook, slack and mail. Left out, `only` and `environments` mean all."""

    name: scalars.Name
    webhook: Webhook | None = None
    slack: Slack | None = None
    mail: Mail | None = None
    only: list[Annotated[Kind, Field(strict=False)]] | None = None
    environments: list[Text] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Channel:
        if sum(way is not None for way in (self.webhook, self.slack, self.mail)) != 1:
            raise ValueError("exactly one of webhook, slack, mail")
        return self

    def takes(self, kind: Kind, environment: str) -> bool:
        return (self.only is None or kind in self.only) and (
            self.environments is None or environment in self.environments
        )


class After(Strict):
    """How long something has to last before it is told."""

    drift: scalars.Duration = timedelta(minutes=1)
    unknown: scalars.Duration = timedelta(minutes=10)


class Notices(Strict):
    apiVersion: Literal["holdfast/v1"]  # noqa: N815 - as it is written
    kind: Literal["Notices"]
    after: After = After()
    channels: Annotated[list[Channel], Field(max_length=50)]

    @model_validator(mode="after")
    def _are_distinct(self) -> Notices:
        names = [channel.name for channel in self.channels]
        if len(set(names)) != len(names):
            raise ValueError("each channel needs a name of its own")
        return self


def read(path: Path) -> Notices:
    """What the file declares. Raises `Problem` with everything that is wrong with it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Problem("NOTICES_UNREADABLE", f"{path} cannot be read: {error.strerror}") from None
    notes = Notes()
    documents = strict.read(str(path), content, notes)
    found = [translation.read(document, Notices, notes) for document in documents]
    findings = notes.sorted()
    if findings or len(found) != 1 or found[0] is None:
        said = "; ".join(str(finding) for finding in findings[:3]) or f"{path}: one document of kind Notices"
        raise Problem("NOTICES_INVALID", said)
    return found[0]


def reference(secret: SecretReference) -> SecretRef:
    return SecretRef(reference=secret.secret, version=secret.version)
