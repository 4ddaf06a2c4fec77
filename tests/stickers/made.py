"""Stickers and keys, made up for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import strategies as st

from stickers import names
from stickers.names import ActionKey, ComponentName, EvidenceId, InstallationId, ProjectName, SlotName, TargetName
from stickers.signature import PublicKey, Signer, key_id
from stickers.sticker import Claim, Phase, Sticker

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)

a_name = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
a_version = st.from_regex(names.VERSION, fullmatch=True)
a_digest = st.binary(min_size=32, max_size=32).map(lambda content: names.digest(f"sha256:{content.hex()}"))
a_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
a_zone = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
a_time = st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=a_zone)
a_count = st.integers(0, 2**53 - 1)

claims = st.builds(
    Claim,
    installation=a_text.map(InstallationId),
    project=a_name.map(ProjectName),
    environment=a_name.map(names.EnvironmentName),
    target=a_name.map(TargetName),
    component=a_name.map(ComponentName),
    slot=a_name.map(SlotName),
    release=st.builds(lambda line, version: names.release_name(f"{line}@{version}"), a_name, a_version),
    artifact=a_digest,
    configuration=a_digest,
)

stickers = st.builds(
    Sticker,
    claim=claims,
    phase=st.sampled_from(Phase),
    job=a_text.map(names.JobId),
    key=a_text.map(ActionKey),
    fence=a_count,
    sequence=a_count,
    previous=st.none() | a_digest,
    revision=a_text,
    evidence=st.none() | a_digest.map(EvidenceId),
    written_at=a_time,
)


def sticker(environment: str = "prod", **changes: object) -> Sticker:
    """A proven sticker of one component in an environment of the project `shop`."""
    content = names.digest("sha256:" + "a" * 64)
    claim = Claim(
        installation=InstallationId("here"),
        project=ProjectName("shop"),
        environment=names.EnvironmentName(environment),
        target=TargetName("web-1"),
        component=ComponentName("api"),
        slot=names.LIVE,
        release=names.release_name("shop@2.3.1"),
        artifact=content,
        configuration=content,
    )
    fields: dict[str, object] = {
        "claim": claim,
        "phase": Phase.PROVEN,
        "job": names.JobId(f"shop/{environment}:12"),
        "key": ActionKey("b" * 64),
        "fence": 3,
        "sequence": 7,
        "previous": None,
        "revision": "9f1c2d7e",
        "evidence": EvidenceId("sha256:" + "c" * 64),
        "written_at": NOON,
    }
    return Sticker(**(fields | changes))  # type: ignore[arg-type]


def signer(*subjects: str, seed: int = 0) -> Signer:
    """A key that is always the same for the same seed, allowed everything unless subjects are named."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    public = private.public_key().public_bytes_raw()
    allowed = subjects or ("sticker:*", "evidence:*", "action:*")
    return Signer(private, PublicKey(id=key_id(public), public=public, subjects=allowed))
