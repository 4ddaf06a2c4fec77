"""Settings, read once from the environment and the command line. A misspelt name is an error, never ignored."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Final

PREFIX: Final = "HOLDFAST_"
FOREIGN: Final = ("HOLDFAST_FAILPOINT", "HOLDFAST_TEST_")  # read elsewhere: by the crash suite and by the tests
FORMATS: Final = ("console", "json")
SWITCH: Final = ("off", "on")
HOOKS: Final = ("off", "target", "on")
ROLES: Final = ("both", "api", "loop")
LEVELS: Final = ("debug", "info", "warning", "error")


class BadSetting(ValueError):
    """A setting that cannot be meant; the text names it and says what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where things live, and how much. `database` is a SQLAlchemy address; without one, SQLite in the state directory.
    `sources` is a file that declares where documents come from; without one, the directory `documents` is the one
    source. `concurrency` is how many actions run together, everywhere; history older than `history_days` is archived.
    `hooks` on: whoever writes the documents may have programs run here; target: only on targets whose connection lets
    them.

    Of several replicas on one PostgreSQL each has a `state` of its own; `key_directory` is what they share, by default
    `keys` in the state. `database_direct` is the address without the pooler, where one hands out servers by the
    transaction. After `lease_seconds` of silence the others take what a replica held.

    Of people: forwarded addresses are believed from `trusted_proxies` alone (addresses and networks, with commas
    between). `oidc_issuer`, `oidc_client_id` and the file with the client's secret, where it has one, name the OpenID
    Connect provider; `oidc_groups_claim` is the claim that lists groups, `oidc_scope` what is asked for. The first
    admin's password is the content of `admin_password_file`, or random and printed once.

    Of `holdfast serve`: `listen` is HOST:PORT, with TLS where `tls_certificate` and `tls_key` name files; on a host
    that others reach it insists on TLS unless `plain_http` is on. `hosts` are the names that clients may call it by,
    with commas; `public_url` is the address that people are shown. `role` is what this process does of api and loop.

    Of what is told elsewhere: `otlp` is the address of an OpenTelemetry collector (HTTP), `notices` the file that says
    who is told of drift, failures and rollbacks.

    Of whoever asks: `server` is the address of a Holdfast that listens (else the socket in the state directory is
    asked), `server_ca` the file of authorities that its certificate is checked against, `token` who asks, where
    `holdfast login` has kept none.
    """

    documents: Path = Path("holdfast")
    sources: Path | None = None
    state: Path = Path(".holdfast")
    database: str = ""
    log_format: str = "console"
    log_level: str = "info"
    concurrency: int = 64
    history_days: int = 90
    hooks: str = "off"
    database_direct: str = ""
    key_directory: Path | None = None
    lease_seconds: int = 30
    listen: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    plain_http: str = "off"
    hosts: str = ""
    public_url: str = ""
    role: str = "both"
    server: str = ""
    server_ca: str = ""
    token: str = field(default="", repr=False)
    trusted_proxies: str = ""
    oidc_issuer: str = ""
    oidc_client_id: str = ""
    oidc_client_secret_file: str = ""
    oidc_groups_claim: str = "groups"
    oidc_scope: str = "openid profile email"
    admin_password_file: str = ""
    otlp: str = ""
    notices: str = ""

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{(self.state / 'holdfast.db').absolute()}"

    @property
    def socket(self) -> Path:
        return self.state / "holdfast.sock"

    @property
    def lock(self) -> Path:
        return self.state / "holdfast.lock"

    @property
    def keys(self) -> Path:
        return self.key_directory or self.state / "keys"

    @property
    def is_shared(self) -> bool:
        """Whether other replicas may work on the same database."""
        return bool(self.database) and not self.database.startswith("sqlite")

    @property
    def archive(self) -> Path:
        return self.state / "archive"


def read(environ: Mapping[str, str] = os.environ, **given: object) -> Settings:
    """Defaults, then `HOLDFAST_*` of the environment, then what was given on the command line (None: not given)."""
    known = {PREFIX + field.name.upper(): field.name for field in fields(Settings)}
    for name in environ:
        if name.startswith(PREFIX) and name not in known and not name.startswith(FOREIGN):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(known))}"
            raise BadSetting(f"{name} is no setting{hint}")
    texts = {field: environ[name] for name, field in known.items() if name in environ}
    chosen = {name: _parsed(name, text) for name, text in texts.items()}
    chosen |= {name: value for name, value in given.items() if value is not None}
    if chosen.get("sources") is not None and "documents" in chosen:
        raise BadSetting(
            "both a file of sources and a directory of documents are set; declare the directory in the file"
        )
    return replace(Settings(), **chosen)  # type: ignore[arg-type]


def _parsed(name: str, text: str) -> object:
    match name:
        case "documents" | "sources" | "state" | "key_directory":
            return Path(text)
        case "lease_seconds":
            if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 3_600:
                raise BadSetting(f"{PREFIX}LEASE_SECONDS is {text[:40]!r}; expected seconds from 1 to 3600")
            return int(text)
        case "concurrency" | "history_days":
            if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10_000:
                raise BadSetting(f"{PREFIX}{name.upper()} is {text[:40]!r}; expected a number from 1 to 10000")
            return int(text)
        case "log_format":
            return _one_of(name, text, FORMATS)
        case "log_level":
            return _one_of(name, text, LEVELS)
        case "hooks":
            return _one_of(name, text, HOOKS)
        case "role":
            return _one_of(name, text, ROLES)
        case "plain_http":
            return _one_of(name, text, SWITCH)
    return text


def _one_of(name: str, text: str, allowed: tuple[str, ...]) -> str:
    if text not in allowed:
        raise BadSetting(f"{PREFIX}{name.upper()} is {text[:40]!r}; expected one of {', '.join(allowed)}")
    return text
