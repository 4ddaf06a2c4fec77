"""What hosts are answered that want an identity, or the next one: the authority's certificate, joins, and renewals.

Nothing is taken from a certificate request but its key and the proof that the asker has it: the name comes with the
token, and everything else is written here. Whoever asks with a wrong token is told the same whatever is wrong with it,
and may ask a few times a minute.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from anyio import to_thread
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from sqlalchemy import Connection

from api.agents import authority as authorities
from api.agents.authority import Authority
from api.people.limits import Limit, network
from api.problem import Problem
from drivers.agent.duty.identity import AUTHORITY, JOIN, RENEW, IdentityError, JoinToken
from reconciler.events import AgentJoined, AgentLocked, Sink
from reconciler.store import agents
from reconciler.store.agents import Certificate, Issued, Keys, Refusal, Refused, Wanted
from reconciler.store.errors import StoreError
from reconciler.store.store import Store

LARGEST: Final = 16 * 1024  # bytes of a request's body
TRIES: Final = 10  # that fail, of one peer
WITHIN: Final = 60.0  # seconds

STATUS: Final[Mapping[str, int]] = {
    "BAD_REQUEST": 400,
    "BAD_CSR": 400,
    "BAD_KEY": 400,
    "BODY_TOO_LARGE": 413,
    "NO_ROUTE": 404,
    "METHOD_NOT_ALLOWED": 405,
    "TOO_MANY_REQUESTS": 429,
    "NO_CERTIFICATE": 401,
    "KEY_USED": 409,
    "NO_SIGNER": 503,
    "STORE_UNAVAILABLE": 503,
    "COMMIT_UNKNOWN": 503,
    **{code.value: 403 for code in Refusal if code is not Refusal.KEY_USED},
}
SENTENCES: Final[Mapping[Refusal, str]] = {
    Refusal.UNKNOWN: "this join token is not one that counts; `holdfast agent invite` makes another",
    Refusal.EXPIRED: "this join token has expired; `holdfast agent invite` makes another",
    Refusal.USED: "this join token was used before; the agent has to be invited again, and unlocked if it was locked",
    Refusal.LOCKED: "the agent is locked; an operator looks at it and unlocks it",
    Refusal.KEY_USED: "this key was certified before; make a new one",
    Refusal.CERTIFICATE: "this certificate counts no more; the agent has to be invited again",
    Refusal.COPIED: "this identity was renewed by somebody else; the agent is locked until an operator has looked",
}


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What joins and renewals need to know. `signers` are the public keys that tasks are signed with, in hex; `servers`
    the addresses that agents keep channels to. `told` is waited for before a new certificate is handed out, so that it
    is known here when it is shown."""

    store: Store
    authority: Authority
    signers: Callable[[], Sequence[str]]
    servers: Callable[[], Sequence[str]]
    sink: Sink
    told: Callable[[], Awaitable[None]]
    now: Callable[[], datetime]
    tries: Limit = field(default_factory=lambda: Limit(TRIES, WITHIN))


class Enrolment:
    """Called by the door with what was asked, the certificate that TLS has verified (DER), and where it came from."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(
        self, method: str, path: str, body: bytes, certificate: bytes | None = None, peer: str = ""
    ) -> tuple[int, Mapping[str, Any]]:
        """Status and answer; what is refused is a problem document (RFC 9457) with a stable code."""
        try:
            return 200, await self._answered(method, path, body, certificate, peer)
        except Problem as problem:
            return STATUS.get(problem.code, 500), _document(problem)
        except StoreError as error:
            return STATUS.get(error.code, 500), _document(Problem(error.code, "the database does not answer now"))

    async def _answered(
        self, method: str, path: str, body: bytes, certificate: bytes | None, peer: str
    ) -> Mapping[str, Any]:
        match method, path:
            case "GET", x if x == AUTHORITY:
                return {"authority": self._desk.authority.root.pem}
            case "POST", x if x == JOIN:
                return await self._limited(peer, self._join(_read(body, _JOIN), peer))
            case "POST", x if x == RENEW:
                return await self._renew(_read(body, _RENEW), certificate, peer)
            case _, x if x in (AUTHORITY, JOIN, RENEW):
                raise Problem("METHOD_NOT_ALLOWED", "this address takes another method")
        raise Problem("NO_ROUTE", "there is nothing at this address")

    async def _limited(self, peer: str, answer: Awaitable[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Only what fails is counted in the end; what is under way is counted too, or many would fit in at once."""
        key, tries = network(peer), self._desk.tries
        if wait := tries.wait(key):
            answer.close()  # type: ignore[attr-defined]  # a coroutine that is not begun
            raise Problem("TOO_MANY_REQUESTS", f"too many attempts; come back in {wait:.0f} s", retry_after=round(wait))
        tries.count(key)
        found = await answer
        tries.forgive(key)
        return found

    async def _join(self, asked: Mapping[str, str], peer: str) -> Mapping[str, Any]:
        desk, now = self._desk, self._desk.now()
        key, keys = await to_thread.run_sync(_shown, asked)
        signers = list(desk.signers())
        if not signers:
            raise Problem("NO_SIGNER", "this server knows no signer, so nobody could authorise tasks of this agent")
        token = _token(asked["token"])
        issue = _issuing(desk.authority, key, now)
        done = await desk.store.write(lambda c: agents.join(c, token.hash, keys, issue, by=peer, now=now))
        return {**await self._issued(done, peer), "signers": signers}

    async def _renew(self, asked: Mapping[str, str], shown: bytes | None, peer: str) -> Mapping[str, Any]:
        desk, now = self._desk, self._desk.now()
        if shown is None:
            raise Problem("NO_CERTIFICATE", "a renewal is asked for with the certificate that is renewed")
        serial, by_key = _of(shown)
        key = await to_thread.run_sync(authorities.requested, asked["csr"])
        issue = _issuing(desk.authority, key, now)

        def renewed(c: Connection) -> Issued | Refused:
            return agents.renew(c, serial, by_key, authorities.digest_of(key), issue, by=peer, now=now)

        return {**await self._issued(await desk.store.write(renewed), peer), "signers": list(desk.signers())}

    async def _issued(self, done: Issued | Refused, peer: str) -> Mapping[str, Any]:
        desk = self._desk
        await desk.told()
        if isinstance(done, Refused):
            if done.locked and done.agent is not None:
                desk.sink(AgentLocked(agent=done.agent, reason=SENTENCES[done.refusal]))
            raise Problem(done.refusal.value, SENTENCES[done.refusal])
        made = done.certificate
        if not done.again:
            desk.sink(AgentJoined(agent=made.agent, generation=made.generation, peer=peer))
        return {
            "certificate": made.pem,
            "authorities": [desk.authority.root.pem],
            "name": made.agent,
            "installation": desk.authority.installation,
            "generation": made.generation,
            "targets": list(done.targets),
            "servers": list(desk.servers()),
        }


def _issuing(authority: Authority, key: authorities.ClientKey, now: datetime) -> Callable[[Wanted], Certificate]:
    return lambda wanted: authority.client(key, wanted, now)


# -- what was sent ----------------------------------------------------------------------------------------------------

_JOIN: Final = ("token", "csr", "signing", "sealing", "proof", "version")
_RENEW: Final = ("csr",)


def _read(body: bytes, names: Sequence[str]) -> Mapping[str, str]:
    """The texts of these names. Others are a later version's, and passed over."""
    if len(body) > LARGEST:
        raise Problem("BODY_TOO_LARGE", f"the body has {len(body)} bytes, at most {LARGEST} are read")
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        raise Problem("BAD_REQUEST", "the body is not JSON") from None
    for name in names:
        if not isinstance(said, dict) or not isinstance(said.get(name), str):
            raise Problem("BAD_REQUEST", f"{name} is missing; expected a text")
    return {name: said[name] for name in names}


def _token(text: str) -> JoinToken:
    try:
        return JoinToken.parse(text)
    except IdentityError:
        raise Problem(Refusal.UNKNOWN.value, SENTENCES[Refusal.UNKNOWN]) from None


def _shown(asked: Mapping[str, str]) -> tuple[authorities.ClientKey, Keys]:
    """The keys, each held by whoever asks: those that sign have signed, and the other is no weak one."""
    key = authorities.requested(asked["csr"])
    try:
        signing, sealing = bytes.fromhex(asked["signing"]), bytes.fromhex(asked["sealing"])
        Ed25519PublicKey.from_public_bytes(signing).verify(bytes.fromhex(asked["proof"]), asked["csr"].encode())
        X25519PublicKey.from_public_bytes(sealing)
    except (ValueError, InvalidSignature):
        what = "signing and sealing are raw public keys in hex, proof the request signed with the first"
        raise Problem("BAD_KEY", what) from None
    return key, Keys(key=authorities.digest_of(key), signing=signing.hex(), sealing=sealing.hex())


def _of(certificate: bytes) -> tuple[int, str]:
    """Serial number and key of a certificate that TLS has verified."""
    found = x509.load_der_x509_certificate(certificate)
    return found.serial_number, authorities.digest_of(found.public_key())  # type: ignore[arg-type]


def _document(problem: Problem) -> Mapping[str, Any]:
    status = STATUS.get(problem.code, 500)
    return {
        "type": f"urn:holdfast:problem:{problem.code.lower()}",
        "title": problem.code.replace("_", " ").capitalize(),
        "status": status,
        "detail": problem.detail,
        "code": problem.code,
        **problem.extra,
    }
