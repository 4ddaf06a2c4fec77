"""The compose template as we understand it: a closed model, in which whatever it does not name is refused at its line.

A template says how the services of a target run, one for each component that may stand there. Which image a component
runs is the release's to say, so an image named here is only a hint for people. There are no variables: `$` is written
`$$`, as compose itself reads it, and every text is kept as it was written. What a validator answers it accepts again,
since a template is kept as plain data.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from stickers import digest

OURS: Final = ("holdfast.", "com.docker.compose.")  # labels that are not the user's

_DOLLAR: Final = re.compile(r"\$\$|\$")
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_PORT: Final = re.compile(
    r"(?!:)(?:(?:(?P<host_ip>[0-9.]+|\[[0-9a-fA-F:.]+\]):)?(?P<published>[0-9]{1,5})?:)?(?P<target>[0-9]{1,5})"
    r"(?:/(?P<protocol>tcp|udp))?"
)
_PLAIN_PORT: Final = re.compile(r"[0-9]{1,5}")
_MOUNT: Final = re.compile(r"(?P<source>[^:]+):(?P<target>/[^:]*)(?::(?P<mode>ro|rw))?")
_DURATION: Final = re.compile(r"(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s)?(?:([0-9]{1,9})ms)?")
_SIZE: Final = re.compile(r"([0-9]{1,15})(?:([kmg])?b?)", re.IGNORECASE)
_CPUS: Final = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,3})?")
_MILLISECONDS: Final = (3_600_000, 60_000, 1000, 1)
_BYTES: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


# -- scalars ----------------------------------------------------------------------------------------------------------


def _text(text: str) -> str:
    if any(found[0] == "$" for found in _DOLLAR.finditer(text)):
        raise ValueError("expected no variables: what differs is declared with the component; a dollar sign is $$")
    if "\0" in text:
        raise ValueError("expected a text without NUL")
    return text


def literal(text: str) -> str:
    """What a text of the template means."""
    return text.replace("$$", "$")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("expected lower-case letters, digits and hyphens, beginning and ending with no hyphen")
    return text


def _variable(text: str) -> str:
    if not _VARIABLE.fullmatch(text):
        raise ValueError("expected the name of a variable")
    return text


def _words(value: object) -> object:
    if isinstance(value, str):
        raise ValueError("expected a list of words: a line would be split by rules that differ")
    return value


def _plain_text(value: object) -> object:
    """Compose takes a whole number for the text of it."""
    return str(value) if type(value) is int else value


def _inside(text: str) -> str:
    if not text.startswith("/") or {"", ".", ".."} & set(text.rstrip("/").split("/")[1:]):
        raise ValueError("expected an absolute path without . and ..")
    return text


def milliseconds(text: str) -> int:
    """A span as compose writes it, such as 1m30s or 500ms."""
    found = _DURATION.fullmatch(text)
    if not text or found is None:
        raise ValueError("expected a duration such as 30s, 1m30s or 500ms")
    return sum(int(count or 0) * size for count, size in zip(found.groups(), _MILLISECONDS, strict=True))


def _duration(text: str) -> str:
    milliseconds(text)
    return text


def _size(value: object) -> object:
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if isinstance(value, str) and found is None:
        raise ValueError("expected a size such as 64m or 1g")
    return int(found[1]) * _BYTES[(found[2] or "").lower()] if found else value


def _cpus(value: object) -> object:
    text = str(value) if type(value) in (int, float) else value
    if not isinstance(text, str) or not _CPUS.fullmatch(text) or not Decimal(text):
        raise ValueError("expected a number of cores such as 1.5, to a thousandth")
    return text


def _port_number(value: object) -> object:
    return int(value) if isinstance(value, str) and _PLAIN_PORT.fullmatch(value) else value


def _refused(reason: str) -> Any:
    """The type of a key that compose knows and we do not carry out."""

    def refuse(value: object) -> None:
        raise ValueError(f"expected {reason}")

    return Annotated[
        None, BeforeValidator(refuse, json_schema_input_type=None), Field(exclude=True, description="refused")
    ]


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("expected an IP address of the host") from None


Text = Annotated[str, AfterValidator(_text)]
Address = Annotated[str, AfterValidator(_address)]
Told = Annotated[str, BeforeValidator(_plain_text, json_schema_input_type=str | int), AfterValidator(_text)]
Name = Annotated[str, AfterValidator(_name)]
Variable = Annotated[str, AfterValidator(_variable)]
Words = Annotated[list[Text], BeforeValidator(_words, json_schema_input_type=list[Text])]
Inside = Annotated[str, AfterValidator(_text), AfterValidator(_inside)]
Duration = Annotated[str, AfterValidator(_duration)]
Size = Annotated[int, BeforeValidator(_size, json_schema_input_type=str | int), Field(ge=1)]
Cpus = Annotated[str, BeforeValidator(_cpus, json_schema_input_type=str | float)]
PortNumber = Annotated[int, BeforeValidator(_port_number, json_schema_input_type=str | int), Field(ge=1, le=65535)]


# -- short forms ------------------------------------------------------------------------------------------------------


def _port(value: object) -> object:
    if type(value) is int:
        return {"target": value}
    if not isinstance(value, str):
        return value
    found = _PORT.fullmatch(value)
    if found is None:
        raise ValueError("expected [address:][host port:]port[/tcp or /udp], without ranges")
    return {name: part.strip("[]") for name, part in found.groupdict().items() if part is not None}


def _mount(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = _MOUNT.fullmatch(value)
    if found is None:
        raise ValueError("expected name:/path or /host/path:/path, with :ro if it is only read")
    kind = "bind" if found["source"][0] in "/.~" else "volume"
    read_only = {"read_only": True} if found["mode"] == "ro" else {}
    return {"type": kind, "source": found["source"], "target": found["target"], **read_only}


def _pairs(value: object) -> object:
    """`NAME=value` lines as a map."""
    if not isinstance(value, list):
        return value
    found: dict[str, str] = {}
    for line in value:
        name, equals, rest = line.partition("=") if isinstance(line, str) else ("", "", "")
        if not equals:
            raise ValueError("expected NAME=value in each line: nothing is taken from where compose happens to run")
        if name in found:
            raise ValueError(f"expected {name} once")
        found[name] = rest
    return found


def _named(value: object) -> object:
    """A list of names as a map of names, each without more to say."""
    return {name: {} for name in value if isinstance(name, str)} if isinstance(value, list) else value


def _said(value: object) -> object:
    return {} if value is None else value


class Closed(BaseModel):
    """Nothing may stand in it that is not named here."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


# -- the parts of a service -------------------------------------------------------------------------------------------


class Port(Closed):
    """A port of the service; without `published`, at any free port of the host."""

    target: PortNumber
    published: PortNumber | None = None
    host_ip: Address = "0.0.0.0"  # noqa: S104  # what compose means where no address is given
    protocol: Literal["tcp", "udp"] = "tcp"


class Mount(Closed):
    type: Literal["volume", "bind"]
    source: Text
    target: Inside
    read_only: bool = False

    @model_validator(mode="after")
    def _source_fits(self) -> Mount:
        if self.type == "bind":
            _inside(self.source)
        elif not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.source):
            raise ValueError("expected the name of a volume as source")
        return self


class Attachment(Closed):
    """A network the service is on."""

    aliases: list[Text] = Field(default_factory=list)


class Dependency(Closed):
    """Started after another. Whether that one is healthy is not waited for here: components are ordered by `after`."""

    condition: Literal["service_started"] = "service_started"


class Healthcheck(Closed):
    test: Words
    interval: Duration = "30s"
    timeout: Duration = "30s"
    retries: Annotated[int, Field(ge=1)] = 3
    start_period: Duration = "0s"

    @model_validator(mode="after")
    def _test_fits(self) -> Healthcheck:
        if len(self.test) < 2 or self.test[0] not in ("CMD", "CMD-SHELL"):
            raise ValueError("expected test: [CMD, program, ...] or [CMD-SHELL, line]")
        return self


class Logging(Closed):
    driver: Text
    options: dict[Text, Told] = Field(default_factory=dict)


# What may stand for them in a document, short forms included.
Environment = Annotated[
    dict[Variable, Told], BeforeValidator(_pairs, json_schema_input_type=dict[str, str | int] | list[str])
]
Labels = Annotated[dict[Text, Told], BeforeValidator(_pairs, json_schema_input_type=dict[str, str | int] | list[str])]
Published = Annotated[Port, BeforeValidator(_port, json_schema_input_type=Port | str | int)]
Mounted = Annotated[Mount, BeforeValidator(_mount, json_schema_input_type=Mount | str)]
Attached = Annotated[
    dict[Text, Annotated[Attachment, BeforeValidator(_said)]],
    BeforeValidator(_named, json_schema_input_type=dict[str, Attachment | None] | list[str]),
]
Depends = Annotated[
    dict[Name, Annotated[Dependency, BeforeValidator(_said)]],
    BeforeValidator(_named, json_schema_input_type=dict[str, Dependency | None] | list[str]),
]


class Service(Closed):
    """How one component runs. What its own declaration says takes the place of what stands here."""

    image: Text | None = Field(default=None, description="for people: the release says which image runs")
    command: Words | None = None
    entrypoint: Words | None = None
    environment: Environment = Field(default_factory=dict)
    ports: list[Published] = Field(default_factory=list)
    volumes: list[Mounted] = Field(default_factory=list)
    tmpfs: list[Inside] = Field(default_factory=list)
    networks: Attached = Field(default_factory=dict)
    depends_on: Depends = Field(default_factory=dict)
    healthcheck: Healthcheck | None = None
    user: Told | None = None
    working_dir: Inside | None = None
    hostname: Text | None = None
    labels: Labels = Field(default_factory=dict)
    init: bool = True
    read_only: bool = False
    stop_signal: Text | None = None
    cap_drop: list[Text] = Field(default_factory=list)
    security_opt: list[Literal["no-new-privileges:true"]] = Field(default_factory=list)
    mem_limit: Size | None = None
    cpus: Cpus | None = None
    logging: Logging | None = None

    build: _refused("no build: what is deployed is built before, and named by digest") = None  # type: ignore[valid-type]
    extends: _refused("the keys themselves: no other file is read") = None  # type: ignore[valid-type]
    privileged: _refused("no privileged services") = None  # type: ignore[valid-type]
    env_file: _refused("environment: no other file is read") = None  # type: ignore[valid-type]
    restart: _refused("restart with the component, in the environment's document") = None  # type: ignore[valid-type]
    stop_grace_period: _refused("stop_grace with the component, in the environment's document") = None  # type: ignore[valid-type]
    container_name: _refused("no container_name: names are compose's own, within our project") = None  # type: ignore[valid-type]
    network_mode: _refused("networks: no service shares the network of the host or of another") = None  # type: ignore[valid-type]
    deploy: _refused("mem_limit and cpus: there is no swarm") = None  # type: ignore[valid-type]
    secrets: _refused("secrets with the component, in the environment's document") = None  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _labels_are_free(self) -> Service:
        taken = sorted(name for name in self.labels if name.startswith(OURS))
        if taken:
            raise ValueError(f"expected no label that begins with {' or '.join(OURS)}, found {taken[0]}")
        return self


# -- the whole --------------------------------------------------------------------------------------------------------


class Shared(Closed):
    """A network or a volume of the project; `external`: somebody else makes it, under that name."""

    external: bool = False
    name: Text | None = None

    @model_validator(mode="after")
    def _name_fits(self) -> Shared:
        if self.external != (self.name is not None):
            raise ValueError("expected name together with external: true, and else neither: ours are named by compose")
        return self


class Network(Shared):
    internal: bool = False


class Part(Closed):
    """What a template says of one service: the service, with the networks and volumes it uses."""

    service: Service
    networks: dict[Text, Network] = Field(default_factory=dict)
    volumes: dict[Text, Shared] = Field(default_factory=dict)

    @property
    def text(self) -> str:
        """As canonical text: the same meaning gives the same."""
        return digest.canonical(self.model_dump(mode="json", exclude_defaults=True)).decode()

    @staticmethod
    @lru_cache(1024)
    def read(text: str) -> Part:
        """From its canonical text; raises `ValueError`."""
        return Part.model_validate_json(text)


class Template(Closed):
    """How the services of one target run."""

    version: Text | None = Field(default=None, exclude=True, description="without meaning")
    services: Annotated[dict[Name, Service], Field(min_length=1)]
    networks: dict[Text, Annotated[Network, BeforeValidator(_said, json_schema_input_type=Network | None)]] = Field(
        default_factory=dict
    )
    volumes: dict[Text, Annotated[Shared, BeforeValidator(_said, json_schema_input_type=Shared | None)]] = Field(
        default_factory=dict
    )

    include: _refused("the services themselves: no other file is read") = None  # type: ignore[valid-type]
    name: _refused("no name: the project is named after the installation and the target") = None  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _everything_used_is_declared(self) -> Template:
        missing = next(self._undeclared(), None)
        if missing is not None:
            raise ValueError(f"expected {missing}")
        return self

    def _undeclared(self) -> Iterator[str]:
        for name, service in self.services.items():
            for network in service.networks:
                if network not in {*self.networks, "default"}:
                    yield f"networks.{network}, which services.{name} uses"
            for mount in service.volumes:
                if mount.type == "volume" and mount.source not in self.volumes:
                    yield f"volumes.{mount.source}, which services.{name} uses"
            for other in service.depends_on:
                if other not in self.services:
                    yield f"services.{other}, on which services.{name} depends"

    def part(self, component: str) -> Part | None:
        service = self.services.get(component)
        if service is None:
            return None
        mounted = {mount.source for mount in service.volumes if mount.type == "volume"}
        return Part(
            service=service,
            networks={name: said for name, said in self.networks.items() if name in service.networks},
            volumes={name: said for name, said in self.volumes.items() if name in mounted},
        )
