"""The small grammars inside the documents: names, spans of time, sizes, ports, volumes, references. A text goes in and
what it means comes out, or `InvalidName` with the rule it broke.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, Final, NewType

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema

from desired_state import secrets
from desired_state.model import Port, Volume
from stickers import names
from stickers.names import Artifact, Digest, InvalidName, ReleaseName

# A wave: how many targets, and whether that is a percent.
Wave = tuple[int, bool]
SecretReference = NewType("SecretReference", str)

_SPAN: Final = re.compile(r"([0-9]{1,9})(ms|s|m|h)")
_SPANS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_LONGEST: Final = timedelta(days=365)
_SIZE: Final = re.compile(r"([1-9][0-9]{0,11})(Ki|Mi|Gi|Ti|K|M|G|T)")
_SIZES: Final = dict(Ki=1 << 10, Mi=1 << 20, Gi=1 << 30, Ti=1 << 40, K=10**3, M=10**6, G=10**9, T=10**12)  # noqa: C408
_LEAST_MEMORY: Final = 1 << 20
_MOST_MEMORY: Final = 1 << 50
_CPUS: Final = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,3})?")
_PERCENT: Final = re.compile(r"([0-9]{1,3})%")
_PORT: Final = re.compile(
    r"(?:(?:(?P<address>[0-9.]+|\[[0-9a-fA-F:.]+\]):)?(?P<host>[0-9]{1,5}):)?(?P<container>[0-9]{1,5})"
    r"(?:/(?P<protocol>tcp|udp))?"
)
_VOLUME: Final = re.compile(r"(?P<source>[^:]+):(?P<destination>/[^:]*)(?P<read_only>:ro)?")
_VOLUME_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_CREDENTIALS: Final = re.compile(r"https?://[^/]*@|[a-z+]+://[^/@]*:[^/@]*@")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,255}")
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?")
_NETWORK: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,31})?")
_HTTP_PATH: Final = re.compile(r"/[!-\"$-~]*")
_FILE: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[^/\0]+)+")
_SERVER_NAME: Final = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_MOMENT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)

SPAN_RULE: Final = "a span of time such as 500ms, 30s, 5m or 1h"
SIZE_RULE: Final = "a size such as 256Mi or 1G, at least 1Mi"
CPUS_RULE: Final = "a number of cores such as 2 or 0.5, with at most three decimals"
WAVE_RULE: Final = "a number of targets such as 3, or a percent of them such as 25%"
PERCENT_RULE: Final = "a percent from 0% to 100%"
PORT_RULE: Final = 'a text: "8080", "8081:8080" or "127.0.0.1:8081:8080", with /udp after it where it is not tcp'
VOLUME_RULE: Final = (
    "name:/inside or /outside:/inside, absolute, without . and .. and a slash at the end; :ro after it is read-only"
)
REFERENCE_RULE: Final = secrets.rule("")
ADDRESS_RULE: Final = "an address without credentials in it"
VARIABLE_RULE: Final = "the name of a variable: letters, digits and _ . -, beginning with a letter or _"
LABEL_RULE: Final = "letters, digits and . _ / -, at most 128, beginning and ending with a letter or digit"
NETWORK_RULE: Final = "the name of a network: letters, digits and _ . -, beginning with a letter or digit"
USER_RULE: Final = 'a text: user or user:group, by name or by number, such as "1000:1000"'
HTTP_PATH_RULE: Final = "a path that begins with one / and holds no spaces, such as /health"
FILE_RULE: Final = "the absolute path of a file, without . and .."
SERVER_NAME_RULE: Final = "the name of a host, such as shop.example.com, without scheme and port"
FILE_NAME_RULE: Final = "the name of a file: letters, digits and _ . -, beginning with a letter or digit"
MOMENT_RULE: Final = "a time with its zone, such as 2026-11-22T06:00:00+01:00"
IMAGE_RULE: Final = (
    "repository@sha256:<64 hex>, or {image: repository, digest: sha256:<64 hex>}; "
    "`holdfast release create` resolves tags"
)


def name(text: str) -> str:
    return names.name(text)


def version(text: str) -> str:
    return _matched("version", names.VERSION, names.VERSION_RULE, text)[0]


def release(text: str) -> ReleaseName:
    return names.release_name(text)


def image(text: object) -> Artifact:
    if not isinstance(text, str):
        raise InvalidName("image", _kind(text), IMAGE_RULE)
    try:
        return Artifact.parse(text)
    except InvalidName as error:
        raise InvalidName("image", text, IMAGE_RULE if "@" not in text else error.expected) from None


def repository(text: str) -> str:
    return _matched("repository", names.REPOSITORY, names.REPOSITORY_RULE, text)[0]


def digest(text: str) -> Digest:
    return names.digest(text)


def span(value: object) -> timedelta:
    """A span of time, zero allowed."""
    found = _matched("duration", _SPAN, SPAN_RULE, value)
    length = timedelta(milliseconds=int(found[1]) * _SPANS[found[2]])
    if length > _LONGEST:
        raise InvalidName("duration", found[0], f"{SPAN_RULE}, at most 8760h")
    return length


def duration(value: object) -> timedelta:
    """A span of time, longer than nothing."""
    length = span(value)
    if not length:
        raise InvalidName("duration", str(value), f"{SPAN_RULE}, longer than 0s")
    return length


def size(value: object) -> int:
    found = _matched("size", _SIZE, SIZE_RULE, value)
    count = int(found[1]) * _SIZES[found[2]]
    if not _LEAST_MEMORY <= count <= _MOST_MEMORY:
        raise InvalidName("size", found[0], SIZE_RULE)
    return count


def cpus(value: object) -> int:
    """Thousandths of a core, from a number or from a text of one."""
    text = value if isinstance(value, str) else str(value) if type(value) in (int, float) else ""
    found = _matched("cpus", _CPUS, CPUS_RULE, text)
    thousandths = int(Decimal(found[0]) * 1000)
    if not thousandths:
        raise InvalidName("cpus", text, CPUS_RULE)
    return thousandths


def wave(value: object) -> Wave:
    if type(value) is int and 1 <= value <= 100_000:
        return value, False
    percent = int(_matched("wave", _PERCENT, WAVE_RULE, value)[1])
    if not 1 <= percent <= 100:
        raise InvalidName("wave", str(value), WAVE_RULE)
    return percent, True


def percent(value: object) -> int:
    found = int(_matched("percent", _PERCENT, PERCENT_RULE, value)[1])
    if found > 100:
        raise InvalidName("percent", str(value), PERCENT_RULE)
    return found


def port(value: object) -> Port:
    """Without an address, a port is published on the loopback address only: what is open to others is said so."""
    found = _matched("port", _PORT, PORT_RULE, value)
    numbers = [int(found[part]) for part in ("container", "host") if found[part]]
    if not all(0 < number < 65536 for number in numbers):
        raise InvalidName("port", found[0], PORT_RULE)
    return Port(
        container=numbers[0],
        host=numbers[1] if len(numbers) > 1 else None,
        address=_address(found["address"]) if found["address"] else "127.0.0.1",
        protocol=found["protocol"] or "tcp",
    )


def volume(value: object) -> Volume:
    found = _matched("volume", _VOLUME, VOLUME_RULE, value)
    source, destination = found["source"], found["destination"]
    named = _VOLUME_NAME.fullmatch(source) is not None
    if not (named or _is_absolute(source)) or not _is_absolute(destination):
        raise InvalidName("volume", found[0], VOLUME_RULE)
    return Volume(source=source, destination=destination, read_only=found["read_only"] is not None)


def address(text: str) -> str:
    """Where sources are kept; it is stored and shown, so it holds no credentials."""
    if _CREDENTIALS.match(text):
        raise InvalidName("address", "an address with credentials", ADDRESS_RULE)
    return text


class BadReference(InvalidName):
    """No reference to a secret. `backend` is what stands where the backend's name should."""

    def __init__(self, text: str) -> None:
        self.backend = text.partition(":")[0] if ":" in text else ""
        super().__init__("secret", text, secrets.rule(self.backend))


def secret(text: str) -> SecretReference:
    if not secrets.REFERENCE.fullmatch(text):
        raise BadReference(text)
    return SecretReference(text)


def secret_version(text: str, reference: str) -> str:
    """The text, if the backend of the reference could keep a version of that name."""
    known = secrets.GRAMMARS.get(reference.partition(":")[0])
    if known is None or known.version is None or re.fullmatch(known.version, text):
        return text
    raise InvalidName("secret version", text, known.version_rule)


def variable(text: str) -> str:
    return _matched("variable", _VARIABLE, VARIABLE_RULE, text)[0]


def file_name(text: str) -> str:
    return _matched("file name", _FILE_NAME, FILE_NAME_RULE, text)[0]


def label(text: str) -> str:
    return _matched("label", _LABEL, LABEL_RULE, text)[0]


def network(text: str) -> str:
    return _matched("network", _NETWORK, NETWORK_RULE, text)[0]


def user(value: object) -> str:
    return _matched("user", _USER, USER_RULE, value)[0]


def http_path(text: str) -> str:
    found = _matched("http path", _HTTP_PATH, HTTP_PATH_RULE, text)[0]
    if found.startswith("//"):
        raise InvalidName("http path", text, HTTP_PATH_RULE)
    return found


def file(text: str) -> str:
    return _matched("file", _FILE, FILE_RULE, text)[0]


def server_name(text: str) -> str:
    return _matched("server name", _SERVER_NAME, SERVER_NAME_RULE, text)[0]


def moment(value: object) -> datetime:
    text = _matched("time", _MOMENT, MOMENT_RULE, value)[0]
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InvalidName("time", text, MOMENT_RULE) from None


def said(value: object) -> str:
    """A text with something in it."""
    if not isinstance(value, str) or not value.strip():
        raise InvalidName("text", _kind(value), "a text that says something")
    return value


def _matched(what: str, grammar: re.Pattern[str], rule: str, value: object) -> re.Match[str]:
    found = grammar.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise InvalidName(what, value if isinstance(value, str) else _kind(value), rule)
    return found


def _kind(value: object) -> str:
    return type(value).__name__


@lru_cache(1024)
def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        raise InvalidName("port", text, PORT_RULE) from None


def _is_absolute(path: str) -> bool:
    parts = path.split("/")[1:]
    return path.startswith("/") and any(parts) and not {"", ".", ".."} & set(parts)


def _schema(rule: str, pattern: re.Pattern[str] | None = None, *others: dict[str, Any]) -> WithJsonSchema:
    """How editors are told of a text; `others` are what may stand in its place."""
    text: dict[str, Any] = {"type": "string"}
    if pattern is not None:
        text["pattern"] = f"^(?:{re.sub(r'[(][?]P<[a-z_]+>', '(', pattern.pattern)})$"
    return WithJsonSchema({"description": rule, **({"anyOf": [text, *others]} if others else text)})


Name = Annotated[str, AfterValidator(name), _schema(names.NAME_RULE, names.NAME)]
Version = Annotated[str, AfterValidator(version), _schema(names.VERSION_RULE, names.VERSION)]
ReleaseReference = Annotated[
    str,
    AfterValidator(release),
    _schema("name@version, such as shop@2.3.1", re.compile(f"{names.NAME.pattern}@{names.VERSION.pattern}")),
]
Image = Annotated[
    Artifact,
    PlainValidator(image),
    _schema(IMAGE_RULE, re.compile(f"(?:{names.REPOSITORY.pattern})@{names.DIGEST.pattern}")),
]
Repository = Annotated[str, AfterValidator(repository), _schema(names.REPOSITORY_RULE, names.REPOSITORY)]
Sha256 = Annotated[str, AfterValidator(digest), _schema(names.DIGEST_RULE, names.DIGEST)]
Duration = Annotated[timedelta, PlainValidator(duration), _schema(f"{SPAN_RULE}, longer than 0s", _SPAN)]
Span = Annotated[timedelta, PlainValidator(span), _schema(SPAN_RULE, _SPAN)]
Size = Annotated[int, PlainValidator(size), _schema(SIZE_RULE, _SIZE)]
Cpus = Annotated[int, PlainValidator(cpus), _schema(CPUS_RULE, _CPUS, {"type": "number", "exclusiveMinimum": 0})]
WaveSize = Annotated[Wave, PlainValidator(wave), _schema(WAVE_RULE, _PERCENT, {"type": "integer", "minimum": 1})]
Percent = Annotated[int, PlainValidator(percent), _schema(PERCENT_RULE, _PERCENT)]
Published = Annotated[Port, PlainValidator(port), _schema(PORT_RULE, _PORT)]
Mounted = Annotated[Volume, PlainValidator(volume), _schema(VOLUME_RULE, _VOLUME)]
Address = Annotated[str, AfterValidator(address), Field(max_length=4096), _schema(ADDRESS_RULE)]
Secret = Annotated[str, AfterValidator(secret), _schema(REFERENCE_RULE, secrets.REFERENCE)]
FileName = Annotated[str, AfterValidator(file_name), _schema(FILE_NAME_RULE, _FILE_NAME)]
Variable = Annotated[str, AfterValidator(variable), _schema(VARIABLE_RULE, _VARIABLE)]
Label = Annotated[str, AfterValidator(label), _schema(LABEL_RULE, _LABEL)]
Network = Annotated[str, AfterValidator(network), _schema(NETWORK_RULE, _NETWORK)]
User = Annotated[str, PlainValidator(user), _schema(USER_RULE, _USER)]
HttpPath = Annotated[str, AfterValidator(http_path), _schema(HTTP_PATH_RULE, _HTTP_PATH)]
File = Annotated[str, AfterValidator(file), _schema(FILE_RULE, _FILE)]
ServerName = Annotated[str, AfterValidator(server_name), _schema(SERVER_NAME_RULE, _SERVER_NAME)]
Moment = Annotated[datetime, PlainValidator(moment), _schema(MOMENT_RULE, _MOMENT)]
Said = Annotated[str, PlainValidator(said), _schema("a text that says something", re.compile(r"(?:.|\n)*\S(?:.|\n)*"))]
