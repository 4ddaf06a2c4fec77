"""The documents `Release`, `Environment` and `Target` as people write them: what may be said, and nothing else.

Nothing is coerced and unknown keys are refused; keys that begin with `x-` are free wherever a map has fixed keys.

A component is configured in the environment's document, and a target's document may say otherwise for itself. The
target's part is laid over the environment's: maps merge key by key, everything else (lists, secrets) is replaced, null
takes away what is inherited, and another kind of health check takes the place of the inherited one.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PlainValidator, Tag, ValidationInfo, field_validator

from desired_state import scalars
from desired_state.hooks import OnFailure, Where
from desired_state.model import Policy, RestartPolicy, RollbackPolicy, StrategyKind
from stickers.names import DEFAULT_PROJECT, InvalidName

API_VERSION: Final = "holdfast/v1"
SUSPEND_RULE: Final = "false, or {reason: why, until: when it ends by itself}"
SOME: Final = Field(max_length=1000)
CHECKS: Final = ("http", "tcp", "command")

M = TypeVar("M", bound="Layer")

PortNumber = Annotated[int, Field(ge=1, le=65535)]
Text = Annotated[str, Field(max_length=4096)]
Word = Annotated[str, Field(max_length=100_000)]  # of an argv or of an environment; kernels take little more


class Strict(BaseModel):
    """A map with known keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True, defer_build=True)


class Layer(Strict):
    """A map of which a target may say a part. Nothing in it is required: what is missing is seen when the layers have
    been laid over each other."""

    def over(self: M, base: M | None) -> M:
        """This layer over the other."""
        if base is None:
            return self
        values = {name: getattr(base, name) for name in base.model_fields_set if name in type(self).model_fields}
        for name in self.model_fields_set:
            values[name] = _laid_over(getattr(self, name), values.get(name))
        return type(self).model_construct(**values)


def _laid_over(value: Any, base: Any) -> Any:
    if isinstance(value, Layer):
        return value.over(base)
    if isinstance(value, dict) and isinstance(base, dict):
        return {name: item for name, item in (base | value).items() if item is not None}
    return value


def _shape(value: object) -> str:
    return "<map>" if isinstance(value, dict) else "<other>"


def _false(value: object) -> Literal[False]:
    if value is not False:
        raise InvalidName("suspension", type(value).__name__, SUSPEND_RULE)
    return False


class SecretReference(Strict):
    """A value that is kept elsewhere. Raising `version` redeploys what uses it; where versions are kept, it is the one
    that is read."""

    secret: scalars.Secret
    version: Text | None = None

    @field_validator("version")
    @classmethod
    def _is_kept(cls, version: str | None, info: ValidationInfo) -> str | None:
        return None if version is None else scalars.secret_version(version, info.data.get("secret", ""))


EnvironmentValue = Annotated[
    Annotated[Word, Tag("<other>")] | Annotated[SecretReference, Tag("<map>")], Discriminator(_shape)
]


class SecretFile(SecretReference):
    """A secret that the workload reads from a file, which is kept in memory."""

    path: scalars.File | None = Field(
        default=None,
        description="where a container has it (default /run/secrets/NAME); services of a host have no choice",
    )


class CheckTls(Layer):
    """The check is asked over TLS. The certificate is always judged; `{}` judges it as the system does, for the address
    that is asked."""

    ca: scalars.File | None = Field(
        default=None, description="a file of trusted authorities (PEM) on the daemon's host; the system's when left out"
    )
    server_name: scalars.ServerName | None = Field(
        default=None, description="the name that the certificate must be for, also sent as Host"
    )


class HttpCheck(Layer):
    """GET on the instance's own address and no other. Redirects are not followed."""

    port: PortNumber | None = None
    path: scalars.HttpPath | None = None
    status: Annotated[int, Field(ge=100, le=599)] | None = None
    body: Annotated[str, Field(min_length=1, max_length=1024)] | None = Field(
        default=None, description="the answer must contain this text, in its first 64 KiB"
    )
    tls: CheckTls | None = None


class TcpCheck(Layer):
    """The port accepts a connection."""

    port: PortNumber | None = None


Argv = Annotated[list[Word], Field(min_length=1, max_length=1000)]


class Health(Layer):
    """When a component counts as healthy: exactly one of `http`, `tcp` and `command`, answered well often enough."""

    http: HttpCheck | None = None
    tcp: TcpCheck | None = None
    command: Argv | None = Field(default=None, description="an argv run inside the workload; 0 is a good answer")
    interval: scalars.Duration | None = Field(default=None, description="between two questions (default 1s)")
    timeout: scalars.Duration | None = Field(default=None, description="of one question (default 5s)")
    successes: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="good answers in a row (default 3)"
    )
    minimum: scalars.Span | None = Field(default=None, description="it must have run this long (default 0s)")
    deadline: scalars.Duration | None = Field(default=None, description="all within this of its start (default 60s)")

    def over(self, base: Health | None) -> Health:
        kinds = {kind for kind in CHECKS if getattr(self, kind) is not None}
        if base is None or not kinds:
            return super().over(base)
        kept = {name: getattr(base, name) for name in base.model_fields_set if name not in CHECKS or name in kinds}
        return super().over(Health.model_construct(**kept))


class RuntimeHealthcheck(Layer):
    """The runtime's own health check of a container."""

    command: Argv | None = None
    interval: scalars.Duration | None = None
    timeout: scalars.Duration | None = None
    retries: Annotated[int, Field(ge=1, le=1000)] | None = None
    start_period: scalars.Span | None = None


class PreDeployHook(Layer):
    """A program of the user's own, run before the first change; failing, it stops the deployment."""

    command: Argv | None = None
    environment: dict[scalars.Variable, EnvironmentValue | None] | None = None
    deadline: scalars.Duration | None = Field(default=None, description="then it is ended and has failed (default 60s)")
    where: Annotated[Where, Field(strict=False)] | None = Field(
        default=None,
        description="daemon (the default): on the management host; target: on the target's host, where its connection "
        "says hooks: true",
    )


class PostDeployHook(PreDeployHook):
    """A program of the user's own, run when the new version is proven."""

    on_failure: Annotated[OnFailure, Field(strict=False)] | None = Field(
        default=None, description="rollback (the default), or warn: the deployment stands all the same"
    )


class Hooks(Layer):
    """Programs that run beside a deployment that changes something, at least once each. The daemon runs them only when
    its setting HOLDFAST_HOOKS is on, or target, which lets them run on targets alone."""

    pre_deploy: PreDeployHook | None = None
    post_deploy: PostDeployHook | None = None


class Proxy(Layer):
    """An nginx before the component, rendered as an artifact of each job: an upstream and a server that asks it."""

    server_name: scalars.ServerName | None = Field(default=None, description="the name it answers to")
    listen: PortNumber | None = Field(default=None, description="the port it listens on (default 80)")
    port: PortNumber | None = Field(
        default=None, description="the port of the workload, published at a port of the host (default: the only such)"
    )


class Component(Layer):
    """How a component runs."""

    command: Argv | None = Field(default=None, description="the argv; without it, what the artifact itself says")
    environment: dict[scalars.Variable, EnvironmentValue | None] | None = None
    secrets: dict[scalars.FileName, SecretFile | None] | None = Field(
        default=None, description="secrets as files in memory, where the runtime has them; what uses none shows none"
    )
    ports: Annotated[list[scalars.Published], SOME] | None = None
    volumes: Annotated[list[scalars.Mounted], SOME] | None = None
    networks: Annotated[list[scalars.Network], SOME] | None = None
    user: scalars.User | None = None
    restart: Annotated[RestartPolicy, Field(strict=False)] | None = None
    memory: scalars.Size | None = None
    cpus: scalars.Cpus | None = None
    stop_grace: scalars.Span | None = Field(default=None, description="from asking to end to ending it (default 10s)")
    healthcheck: RuntimeHealthcheck | None = None
    registry_credentials: SecretReference | None = None
    health: Health | None = None
    hooks: Hooks | None = None
    proxy: Proxy | None = None
    state: Literal["running", "stopped"] | None = None


class EnvironmentComponent(Component):
    """How a component runs in an environment, where, and after which others."""

    after: Annotated[list[scalars.Name], SOME] | None = Field(
        default=None, description="components that are done on every target before this one changes"
    )
    select: dict[scalars.Label, Text] | None = Field(
        default=None, description="labels a target must have to run it; all targets when left out"
    )
    optional: bool = Field(default=False, description="no target needs to run it")


class ReleaseImage(Strict):
    """The artifact of a component, by content."""

    image: scalars.Repository
    digest: scalars.Sha256
    resolved_from: Text | None = Field(default=None, description="the tag it was resolved from, for people")


ReleaseComponent = Annotated[
    Annotated[scalars.Image, Tag("<other>")] | Annotated[ReleaseImage, Tag("<map>")], Discriminator(_shape)
]


class ReleaseSource(Strict):
    """Where a release was built from."""

    repository: scalars.Address | None = None
    commit: Text | None = None


class Suspension(Strict):
    """Nothing is changed in the environment, until a person or the time ends it."""

    reason: scalars.Said = Field(description="why, for people")
    until: scalars.Moment | None = None


Suspend = Annotated[
    Annotated[Literal[False], PlainValidator(_false, json_schema_input_type=Literal[False]), Tag("<other>")]
    | Annotated[Suspension, Tag("<map>")],
    Discriminator(_shape),
]

Mode = Annotated[Policy, Field(strict=False)]


class Sync(Strict):
    """What may happen without a person."""

    mode: Mode = Field(default=Policy.AUTOMATIC, description="adopting another release or configuration")
    heal: Mode = Field(default=Policy.AUTOMATIC, description="restoring what is pinned")
    ahead: Mode = Field(default=Policy.AUTOMATIC, description="where a later release than declared runs")
    prune: bool = Field(default=False, description="whether what nobody declares any more is removed")
    removal_limit: scalars.Percent = Field(default=30, description="above it, removal waits for a person (default 30%)")
    interval: scalars.Duration = Field(default=timedelta(seconds=30), description="between two looks (default 30s)")


class Strategy(Strict):
    """How many targets change together."""

    kind: Annotated[StrategyKind, Field(strict=False)] = StrategyKind.ROLLING
    wave: scalars.WaveSize = Field(default=(25, True), description="of `rolling` (default 25%)")
    max_failures: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=0, description="more failed targets than this end the job"
    )


class Declaration(Strict):
    """What every document says first."""

    api_version: Literal["holdfast/v1"] = Field(alias="apiVersion")
    project: scalars.Name = Field(default=str(DEFAULT_PROJECT), description="the scope of all names (default: default)")
    name: scalars.Name


class Release(Declaration):
    """An immutable set of component -> artifact, by digest."""

    kind: Literal["Release"]
    version: scalars.Version
    source: ReleaseSource = ReleaseSource.model_construct()
    components: Annotated[dict[scalars.Name, ReleaseComponent], Field(min_length=1)]


class Environment(Declaration):
    """A named place where one release is desired."""

    kind: Literal["Environment"]
    release: scalars.ReleaseReference
    suspend: Suspend = False
    sync: Sync = Field(default_factory=Sync)
    strategy: Strategy = Field(default_factory=Strategy)
    rollback: Annotated[RollbackPolicy, Field(strict=False)] = RollbackPolicy.AUTOMATIC
    keep: Annotated[int, Field(ge=0, le=100)] = Field(
        default=2, description="predecessors that stay on a target beside last good (default 2)"
    )
    components: dict[scalars.Name, EnvironmentComponent] = Field(default_factory=dict)


class Target(Declaration):
    """One place that wears stickers."""

    kind: Literal["Target"]
    environment: scalars.Name = Field(description="the name of the environment it belongs to")
    driver: Text = Field(description="the runtime, such as docker or process")
    labels: dict[scalars.Label, Text] = Field(default_factory=dict)
    connection: dict[str, Any] = Field(default_factory=dict, description="how it is reached, in the driver's own terms")
    components: dict[scalars.Name, Component] = Field(default_factory=dict)


Kind = type[Release] | type[Environment] | type[Target]
KINDS: Final[dict[str, Kind]] = {"Release": Release, "Environment": Environment, "Target": Target}
