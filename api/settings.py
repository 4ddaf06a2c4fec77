"""Settings: what there is to set, and how it is gathered from one file, the environment and the command line.

A misspelt name is an error, never ignored, and nothing is set by default that points at anything real.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

PREFIX: Final = "HOLDFAST_"
FILE: Final = "HOLDFAST_SETTINGS"  # names the file; the one setting that cannot stand in it
FOREIGN: Final = ("HOLDFAST_FAILPOINT", "HOLDFAST_TEST_")  # read elsewhere: by the crash suite and by the tests
FORMATS: Final = ("console", "json")
SWITCH: Final = ("off", "on")
HOOKS: Final = ("off", "target", "on")
ROLES: Final = ("both", "api", "loop")
LEVELS: Final = ("debug", "info", "warning", "error")
LEAST: Final = 1  # of every number
MEANING: Final = "meaning"

HOLDING, REPLICAS, DOOR, AGENTS, PEOPLE, TELLING, ASKING = (
    "What is held, and where it is kept",
    "Several replicas on one PostgreSQL",
    "Listening (`holdfast serve`)",
    "Agents",
    "People",
    "What is told elsewhere",
    "Whoever asks (every other command)",
)


class BadSetting(ValueError):
    """A setting that cannot be meant; the text names it and says what would be right, `findings` those of a file."""

    def __init__(self, text: str, findings: tuple[Any, ...] = ()) -> None:
        super().__init__(text)
        self.findings = findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What one setting is for. `says` stands in the reference, in the commented file, and nowhere else; `example` is
    what the commented file shows. `file`: its value is a path. `secret`: its value is never shown."""

    group: str
    says: str
    example: str = ""
    choices: tuple[str, ...] = ()
    file: bool = False
    secret: bool = False
    most: int = 10_000  # of a number


def _means(group: str, says: str, **more: Any) -> Mapping[str, Meaning]:
    return {MEANING: Meaning(group=group, says=says, **more)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where things live, and how much. What each is for is said beside it, once."""

    documents: Path = field(
        default=Path("holdfast"),
        metadata=_means(
            HOLDING,
            "The directory of documents, where no file of sources declares others.",
            example="/etc/holdfast/documents",
            file=True,
        ),
    )
    sources: Path | None = field(
        default=None,
        metadata=_means(
            HOLDING,
            "The file that declares where documents come from: git, directories, the database.",
            example="/etc/holdfast/sources.yaml",
            file=True,
        ),
    )
    state: Path = field(
        default=Path(".holdfast"),
        metadata=_means(
            HOLDING,
            "Keys, socket, archive, and the database where `database` names none. One process to each.",
            example="/var/lib/holdfast",
            file=True,
        ),
    )
    database: str = field(
        default="",
        metadata=_means(
            HOLDING,
            "A SQLAlchemy address. Without one, SQLite in the state directory; replicas need PostgreSQL.",
            example="postgresql+psycopg://holdfast@database.example.com/holdfast",
        ),
    )
    concurrency: int = field(
        default=64, metadata=_means(HOLDING, "How many actions run together, over all environments.")
    )
    history_days: int = field(
        default=90, metadata=_means(HOLDING, "History older than so many days is moved into files beside the state.")
    )
    hooks: str = field(
        default="off",
        metadata=_means(
            HOLDING,
            "On: whoever writes the documents may have programs run on the daemon's own machine; target: only on "
            "targets whose connection lets them.",
            choices=HOOKS,
        ),
    )
    database_direct: str = field(
        default="",
        metadata=_means(
            REPLICAS,
            "The database's address without the pooler, where one hands out servers by the transaction.",
            example="postgresql+psycopg://holdfast@database.example.com:5432/holdfast",
        ),
    )
    key_directory: Path | None = field(
        default=None,
        metadata=_means(
            REPLICAS,
            "The keys that replicas share; by default `keys` in the state directory, of which each has its own.",
            example="/etc/holdfast/keys",
            file=True,
        ),
    )
    lease_seconds: int = field(
        default=30,
        metadata=_means(REPLICAS, "After so many seconds of silence the others take what a replica held.", most=3_600),
    )
    listen: str = field(
        default="", metadata=_means(DOOR, "HOST:PORT, for API and dashboard.", example="127.0.0.1:8420")
    )
    tls_certificate: str = field(
        default="",
        metadata=_means(DOOR, "A PEM file with its chain; then HTTPS is spoken.", example="/etc/holdfast/tls/cert.pem"),
    )
    tls_key: str = field(
        default="",
        metadata=_means(
            DOOR, "A PEM file, where the key is not in that of the certificate.", example="/etc/holdfast/tls/key.pem"
        ),
    )
    plain_http: str = field(
        default="off",
        metadata=_means(
            DOOR, "On: listen without TLS where others reach it, behind a proxy that has it.", choices=SWITCH
        ),
    )
    hosts: str = field(
        default="",
        metadata=_means(
            DOOR,
            "Names that clients may call it by, with commas between; addresses need none.",
            example="holdfast.example.com",
        ),
    )
    public_url: str = field(
        default="",
        metadata=_means(DOOR, "The address that people are shown and sent to.", example="https://holdfast.example.com"),
    )
    role: str = field(
        default="both", metadata=_means(DOOR, "What this process does: answer, hold, or both.", choices=ROLES)
    )
    trusted_proxies: str = field(
        default="",
        metadata=_means(
            DOOR, "Addresses and networks whose forwarded addresses are believed, with commas.", example="192.0.2.0/24"
        ),
    )
    agents_listen: str = field(
        default="",
        metadata=_means(
            AGENTS, "HOST:PORT, for agents alone: mutual TLS of their own authority.", example="0.0.0.0:8421"
        ),
    )
    agents_url: str = field(
        default="",
        metadata=_means(
            AGENTS,
            "The address at which agents reach this process; its host stands in the listener's certificate.",
            example="https://holdfast.example.com:8421",
        ),
    )
    signer: Path | None = field(
        default=None,
        metadata=_means(
            AGENTS,
            "The socket of the signer (`holdfast signer run`), which authorises each task of an agent.",
            example="/var/lib/holdfast-signer/signer.sock",
            file=True,
        ),
    )
    signer_key: Path | None = field(
        default=None,
        metadata=_means(
            AGENTS,
            "The file with the signer's public key, which agents are told when they join; by default `public` beside "
            "the signer's socket.",
            example="/etc/holdfast/signer.pub",
            file=True,
        ),
    )
    oidc_issuer: str = field(
        default="",
        metadata=_means(
            PEOPLE, "The OpenID Connect provider that people log in with.", example="https://login.example.com"
        ),
    )
    oidc_client_id: str = field(
        default="", metadata=_means(PEOPLE, "What the provider knows this installation as.", example="holdfast")
    )
    oidc_client_secret_file: str = field(
        default="",
        metadata=_means(
            PEOPLE, "The file with the client's secret, where it has one.", example="/etc/holdfast/oidc-secret"
        ),
    )
    oidc_groups_claim: str = field(default="groups", metadata=_means(PEOPLE, "The claim that lists a person's groups."))
    oidc_scope: str = field(default="openid profile email", metadata=_means(PEOPLE, "What the provider is asked for."))
    admin_password_file: str = field(
        default="",
        metadata=_means(
            PEOPLE,
            "The first admin's password; without it, a random one is printed once.",
            example="/etc/holdfast/admin-password",
        ),
    )
    notices: str = field(
        default="",
        metadata=_means(
            TELLING,
            "The file that says who is told of drift, failures and rollbacks.",
            example="/etc/holdfast/notices.yaml",
        ),
    )
    otlp: str = field(
        default="",
        metadata=_means(TELLING, "The address of an OpenTelemetry collector (HTTP).", example="http://127.0.0.1:4318"),
    )
    log_format: str = field(
        default="console", metadata=_means(TELLING, "How each line of the log is written.", choices=FORMATS)
    )
    log_level: str = field(
        default="info", metadata=_means(TELLING, "What is written: this, and what is graver.", choices=LEVELS)
    )
    server: str = field(
        default="",
        metadata=_means(
            ASKING,
            "The address of a Holdfast that listens; without one, the socket in the state directory is asked.",
            example="https://holdfast.example.com",
        ),
    )
    server_ca: str = field(
        default="",
        metadata=_means(
            ASKING,
            "The authorities that the server's certificate is checked against, where they are not the host's.",
            example="/etc/holdfast/ca.pem",
        ),
    )
    token: str = field(
        default="",
        repr=False,
        metadata=_means(ASKING, "Who asks, where `holdfast login` has kept no token.", secret=True),
    )

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
    def authority(self) -> Path:
        """Where the authority for agents is kept."""
        return self.keys / "authority"

    @property
    def signer_public(self) -> Path:
        if self.signer_key is None and self.signer is not None:
            return self.signer.parent / "public"
        return self.signer_key or self.keys / "signer.pub"

    @property
    def is_shared(self) -> bool:
        """Whether other replicas may work on the same database."""
        return bool(self.database) and not self.database.startswith("sqlite")

    @property
    def archive(self) -> Path:
        return self.state / "archive"


MEANINGS: Final[Mapping[str, Meaning]] = {each.name: each.metadata[MEANING] for each in fields(Settings)}
DEFAULTS: Final = Settings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """Settings, and where the value of each comes from; of those that have none there it is the default."""

    settings: Settings
    origins: Mapping[str, str]


def read(environ: Mapping[str, str] = os.environ, *, file: Path | None = None, **given: object) -> Settings:
    return gather(environ, file=file, **given).settings


def gather(environ: Mapping[str, str] = os.environ, *, file: Path | None = None, **given: object) -> Gathered:
    """Defaults, then the file (`HOLDFAST_SETTINGS`, unless the command line names another), then `HOLDFAST_*` of the
    environment, then what was given on the command line (None: not given)."""
    chosen: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in (_of_file(environ, file), _of_environment(environ), _of_command_line(given)):
        chosen |= {name: value for name, (value, _) in layer.items()}
        origins |= {name: origin for name, (_, origin) in layer.items()}
    if "sources" in chosen and "documents" in chosen:
        raise BadSetting(
            f"both a file of sources ({origins['sources']}) and a directory of documents ({origins['documents']}) are "
            "set; declare the directory in the file"
        )
    return Gathered(settings=replace(DEFAULTS, **chosen), origins=origins)


Layer = Mapping[str, tuple[object, str]]  # value and origin


def _of_file(environ: Mapping[str, str], file: Path | None) -> Layer:
    if file is None and not environ.get(FILE):
        return {}
    from api import settings_file  # with the reader of YAML, which most commands do without

    return settings_file.read(file or Path(environ[FILE]))


def _of_environment(environ: Mapping[str, str]) -> Layer:
    known = {PREFIX + name.upper(): name for name in MEANINGS}
    for name in environ:
        if name.startswith(PREFIX) and name not in known and name != FILE and not name.startswith(FOREIGN):
            near = difflib.get_close_matches(name, [*known, FILE], n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted([*known, FILE]))}"
            raise BadSetting(f"{name} is no setting{hint}")
    return {
        name: (_parsed(name, environ[variable]), variable) for variable, name in known.items() if variable in environ
    }


def _of_command_line(given: Mapping[str, object]) -> Layer:
    return {name: (value, "command line") for name, value in given.items() if value is not None}


def _parsed(name: str, text: str) -> object:
    numeric = isinstance(getattr(DEFAULTS, name), int) and text.isascii() and text.isdigit() and len(text) < 10
    try:
        return meant(name, int(text) if numeric else text)
    except ValueError:
        found = "another" if MEANINGS[name].secret else repr(text[:40])
        raise BadSetting(f"{PREFIX}{name.upper()} is {found}; expected {expected(name)}") from None


def meant(name: str, value: object) -> object:
    """The value as the setting has it. Raises `ValueError` for what it cannot be."""
    meaning = MEANINGS[name]
    if isinstance(getattr(DEFAULTS, name), int):
        right = isinstance(value, int) and not isinstance(value, bool) and LEAST <= value <= meaning.most
    elif meaning.choices:
        right = value in meaning.choices
    else:
        right = isinstance(value, str) and (value != "" or not meaning.file)
    if not right:
        raise ValueError(name)
    return Path(str(value)) if meaning.file else value


def expected(name: str) -> str:
    meaning = MEANINGS[name]
    if isinstance(getattr(DEFAULTS, name), int):
        return f"a number from {LEAST} to {meaning.most}"
    if meaning.choices:
        return f"one of {', '.join(meaning.choices)}"
    return "a path" if meaning.file else "a text"
