"""What a driver's tests bring: a target of the real runtime, artifacts, hands that break things, eyes of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from desired_state.health import Health
from desired_state.model import Configuration, Placement, Target
from desired_state.secrets import SecretRef
from drivers.contract import Driver, Tools
from drivers.errors import Refused
from stickers import codec
from stickers.names import ActionKey, Artifact, Digest, InstallationId, PlacementId
from stickers.signature import Envelope, Keyring, PublicKey, SignatureError, Signer, key_id
from stickers.sticker import Sticker


class Version(StrEnum):
    """What the bench can deploy. Each prints at least one line when it starts. `BAD` starts, stays up and never
    answers its health check; the others do, at once."""

    ONE = "one"
    TWO = "two"
    THREE = "three"
    BAD = "bad"


class Power(StrEnum):
    """What not every bench or runtime can do; a clause that needs one is skipped where it is missing."""

    FIXED = "fixed"  # a port of the target that only one workload can hold
    BESIDE = "beside"  # without a fixed port, the new one comes up beside the old one
    ANSWERS = "answers"  # `Bench.answering` can ask the placement's traffic
    SWAPS = "swaps"  # `Bench.swap`
    SOURCE = "source"  # `Bench.lose_source`
    UNREACHABLE = "unreachable"  # `Bench.unreachable`
    INTRUDES = "intrudes"  # `Bench.intrude`, `Bench.intruders`
    ADOPTS = "adopts"  # `Bench.adoptable`; the driver's capability of that name
    EVENTS = "events"  # the driver's capability
    LOGS = "logs"  # the driver's capability


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """One workload of a placement as the runtime itself tells it, running or not."""

    instance: str
    artifact: Digest
    running: bool
    key: ActionKey | None = None  # the action that made it


class Bench(ABC):
    """One empty target. Everything here goes around the driver: to the runtime itself.

    `patience` is the longest that one clause may take; `pause` is how long the kit waits between two looks; `doomed` is
    the deadline of a version that is not going to be well, where that is not the check's own.
    """

    patience: timedelta = timedelta(seconds=120)
    pause: timedelta = timedelta(milliseconds=20)
    doomed: timedelta | None = None

    def __init__(self, tools: Tools | None = None) -> None:
        self.tools = tools or proper_tools()

    # -- what there is ----------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def powers(self) -> frozenset[Power]: ...

    @property
    @abstractmethod
    def target(self) -> Target: ...

    @abstractmethod
    def driver(self) -> Driver:
        """A new driver, as after a start of the daemon. The kit closes it."""

    @abstractmethod
    def artifact(self, version: Version) -> Artifact: ...

    @abstractmethod
    def configuration(self, component: str, *, fixed: bool) -> Configuration:
        """What `component` needs to run on this target; with a port that only one workload can hold when `fixed`.
        Two components can run at once. The kit adds environment variables whose names begin with KIT."""

    @abstractmethod
    def health(self, component: str, *, fixed: bool) -> Health:
        """A check that a good version answers within a second: short interval, two answers or more, and a deadline of
        a few seconds, so that a bad version is found out soon; or a longer one, and `doomed`."""

    # -- eyes -------------------------------------------------------------------------------------------------------

    @abstractmethod
    async def raw(self, id: PlacementId) -> tuple[Raw, ...]:
        """Every workload of the placement that the runtime has, kept and half-made ones included."""

    async def answering(self, id: PlacementId) -> Version | None:
        """The version that answers the placement's traffic now, asked as a client would; None when nothing does."""
        raise self._missing(Power.ANSWERS)

    # -- hands ------------------------------------------------------------------------------------------------------

    @abstractmethod
    async def stop(self, id: PlacementId) -> None:
        """Stop what serves, so that it stays down, as an operator at the target would."""

    @abstractmethod
    async def remove(self, id: PlacementId) -> None:
        """Take what serves away, and leave the sticker."""

    @abstractmethod
    async def wear(self, id: PlacementId, envelope: Envelope | None) -> None:
        """Put this sticker in the place of the one worn, or take it off."""

    @abstractmethod
    async def garble(self, id: PlacementId) -> None:
        """Make the sticker unreadable."""

    async def swap(self, id: PlacementId, version: Version) -> None:
        """Have another version run in place of what serves, and change nothing else."""
        raise self._missing(Power.SWAPS)

    async def intrude(self, name: str) -> None:
        """Run something that is not ours, under a name that a careless search takes for ours."""
        raise self._missing(Power.INTRUDES)

    async def intruders(self) -> frozenset[str]:
        """What is not ours and runs, by identities that change when it is restarted or replaced."""
        raise self._missing(Power.INTRUDES)

    async def adoptable(self, placement: Placement) -> str:
        """Run, without the driver, what the placement declares; answers the name to adopt it by."""
        raise self._missing(Power.ADOPTS)

    async def lose_source(self) -> None:
        """From now on no artifact can be had from where artifacts come from."""
        raise self._missing(Power.SOURCE)

    def unreachable(self) -> Target:
        """Another target of the same runtime, at which nothing answers."""
        raise self._missing(Power.UNREACHABLE)

    def _missing(self, power: Power) -> LookupError:
        return LookupError(f"this bench has not the power {power}")


def proper_tools() -> Tools:
    """Tools with a key of their own, the machine's clock, and no secrets."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    key = PublicKey(id=key_id(public), public=public, subjects=("*",))
    keyring = Keyring([key])

    def read(envelope: Envelope) -> Sticker | None:
        try:
            return codec.verified(envelope, keyring)
        except (SignatureError, codec.Unreadable):
            return None

    return Tools(
        installation=InstallationId("conformance"),
        sign=Signer(private, key).sign,
        read=read,
        now=lambda: datetime.now(UTC),
        secret=_no_secret,
    )


async def _no_secret(reference: SecretRef) -> str:
    raise Refused(f"there is no secret {reference.reference}")
