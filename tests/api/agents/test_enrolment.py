"""How a host comes by an identity, and by the next one; and who is refused."""

from __future__ import annotations

import json
import shutil
import ssl
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from api.agents.roll import State
from drivers.agent.duty.identity import JOIN, RENEW, Identity, IdentityError, JoinToken
from reconciler.events import AgentJoined, AgentLocked
from reconciler.store import agents
from reconciler.store.records import AgentState
from stickers.names import AgentName, TargetId
from tests.api.agents.offices import INSTALLATION, T1, WEB_1, Office, joined, listening, renewed


def request(key: Any = None, name: str = "", **extensions: x509.ExtensionType) -> str:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    built = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for extension in extensions.values():
        built = built.add_extension(extension, critical=False)
    signs = None if isinstance(key, Ed25519PrivateKey) else SHA256()
    return built.sign(key, signs).public_bytes(Encoding.PEM).decode()


def asking(token: JoinToken, csr: str | None = None, signing: Ed25519PrivateKey | None = None) -> dict[str, str]:
    csr, signing = csr or request(), signing or Ed25519PrivateKey.generate()
    return {
        "token": str(token),
        "csr": csr,
        "signing": signing.public_key().public_bytes_raw().hex(),
        "sealing": X25519PrivateKey.generate().public_key().public_bytes_raw().hex(),
        "proof": signing.sign(csr.encode()).hex(),
        "version": "1",
    }


def der(certificate: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate)


def serial(certificate: str) -> int:
    return x509.load_pem_x509_certificate(certificate.encode()).serial_number


# -- joining ----------------------------------------------------------------------------------------------------------


async def test_a_host_joins_with_a_token_and_is_who_the_token_says(here: Office, tmp_path: Path) -> None:
    async with listening(here) as url:
        who = await joined(here, url, tmp_path / "agent")
    assert (who.name, who.installation, who.generation) == (WEB_1, INSTALLATION, 1)
    assert (who.targets, who.servers) == ((T1,), (url,))
    assert who.signers == (here.signer.public_key().public_bytes_raw().hex(),)
    member = here.roll.by_serial(serial(who.certificate))
    assert member is not None
    assert (member.agent, member.state, member.targets) == (WEB_1, State.ACTIVE, frozenset({T1}))
    assert member.signing == who.signing.public_key().public_bytes_raw()
    assert here.events == [AgentJoined(agent=WEB_1, generation=1, peer="127.0.0.1")]
    assert Identity.load(tmp_path / "agent") == who


async def test_what_a_request_asks_for_beside_its_key_is_not_given(here: Office) -> None:
    wants = {
        "ca": x509.BasicConstraints(ca=True, path_length=None),
        "names": x509.SubjectAlternativeName([x509.DNSName("db-1.example.com")]),
        "usage": x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
    }
    key = ec.generate_private_key(ec.SECP256R1())
    status, said = await here.asked(JOIN, asking(await here.invited(), request(key, "db-1", **wants)))
    assert status == 200
    found = x509.load_pem_x509_certificate(said["certificate"].encode())
    of = found.extensions.get_extension_for_class
    assert found.subject.rfc4514_string() == "CN=web-1"
    assert [each.value for each in of(x509.SubjectAlternativeName).value] == [f"spiffe://{INSTALLATION}/agent/web-1"]
    assert not of(x509.BasicConstraints).value.ca
    assert list(of(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert found.not_valid_after_utc - here.clock() == timedelta(hours=24)
    assert found.public_key() == key.public_key()


async def test_a_token_is_used_once_and_a_second_use_locks_the_name(here: Office) -> None:
    token = await here.invited()
    status, said = await here.asked(JOIN, asking(token))
    assert status == 200
    status, problem = await here.asked(JOIN, asking(token), peer="198.51.100.9")
    assert (status, problem["code"]) == (403, "TOKEN_USED")
    row = await here.row()
    assert row.state is AgentState.LOCKED
    assert "198.51.100.9" in row.reason
    assert [each for each in here.events if isinstance(each, AgentLocked)]
    member = here.roll.by_serial(serial(said["certificate"]))
    assert member is not None
    assert member.state is State.LOCKED


async def test_whoever_lost_the_answer_is_given_the_same_certificate(here: Office) -> None:
    said = asking(await here.invited())
    first = await here.asked(JOIN, said)
    assert first == await here.asked(JOIN, said)
    assert (await here.row()).state is AgentState.ACTIVE


@pytest.mark.parametrize(("later", "code"), [({"minutes": 15}, "TOKEN_EXPIRED"), ({"minutes": 14}, None)])
async def test_a_token_expires_after_a_quarter_of_an_hour(
    here: Office, later: dict[str, float], code: str | None
) -> None:
    token = await here.invited()
    here.clock.on(**later)
    _, said = await here.asked(JOIN, asking(token))
    assert said.get("code") == code


async def test_an_unknown_token_is_refused_and_says_nothing(here: Office) -> None:
    await here.invited()
    stranger = JoinToken.made("0" * 64, "0" * 64)
    status, said = await here.asked(JOIN, asking(stranger))
    assert (status, said["code"]) == (403, "JOIN_REFUSED")
    assert (await here.row()).state is AgentState.INVITED


async def test_of_several_invitations_the_last_one_counts(here: Office) -> None:
    before, after = await here.invited(), await here.invited()
    _, said = await here.asked(JOIN, asking(before))
    assert said["code"] == "JOIN_REFUSED"
    assert (await here.asked(JOIN, asking(after)))[0] == 200


def _tampered(csr: str) -> str:
    lines = csr.splitlines()
    lines[-2] = lines[-2][:-8] + ("AAAA" if not lines[-2].endswith("AAAA", 0, -4) else "BBBB") + lines[-2][-4:]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("spoiled", "status", "code"),
    [
        ({"csr": _tampered(request())}, 400, "BAD_CSR"),
        ({"csr": request(rsa.generate_private_key(65537, 2048))}, 400, "BAD_CSR"),
        ({"csr": request(ec.generate_private_key(ec.SECP384R1()))}, 400, "BAD_CSR"),
        ({"csr": "no request"}, 400, "BAD_CSR"),
        ({"csr": "A" * 9000}, 400, "BAD_CSR"),
        ({"signing": "00" * 31}, 400, "BAD_KEY"),
        ({"proof": "00" * 64}, 400, "BAD_KEY"),
        ({"sealing": "zz"}, 400, "BAD_KEY"),
        ({"token": "holdfast-join:x"}, 403, "JOIN_REFUSED"),
        ({"token": 7}, 400, "BAD_REQUEST"),
    ],
)
async def test_what_is_no_request_is_refused_and_the_token_still_counts(
    here: Office, spoiled: dict[str, Any], status: int, code: str
) -> None:
    token = await here.invited()
    found = await here.asked(JOIN, asking(token) | spoiled)
    assert (found[0], found[1]["code"]) == (status, code)
    assert (await here.asked(JOIN, asking(token)))[0] == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [(b"x" * 20_000, 413, "BODY_TOO_LARGE"), (b"{", 400, "BAD_REQUEST"), (b"[" * 15_000, 400, "BAD_REQUEST")],
)
async def test_a_body_is_bounded_and_read_strictly(here: Office, body: bytes, status: int, code: str) -> None:
    found = await here.asked(JOIN, body)
    assert (found[0], found[1]["code"]) == (status, code)


async def test_a_peer_that_fails_again_and_again_has_to_wait(here: Office) -> None:
    stranger = asking(JoinToken.made("0" * 64, "0" * 64))
    codes = [(await here.asked(JOIN, stranger))[1]["code"] for _ in range(12)]
    assert codes == ["JOIN_REFUSED"] * 10 + ["TOO_MANY_REQUESTS"] * 2
    assert (await here.asked(JOIN, asking(await here.invited()), peer="198.51.100.9"))[0] == 200


async def test_hosts_that_join_one_after_the_other_from_one_address_need_not_wait(here: Office) -> None:
    for number in range(15):
        token = await here.invited(AgentName(f"web-{number}"), TargetId(f"default/web-{number}"))
        assert (await here.asked(JOIN, asking(token)))[0] == 200


async def test_a_signing_key_of_another_agent_is_not_taken(here: Office) -> None:
    signing = Ed25519PrivateKey.generate()
    assert (await here.asked(JOIN, asking(await here.invited(), signing=signing)))[0] == 200
    other = await here.invited(AgentName("db-1"), TargetId("default/db-1"))
    status, said = await here.asked(JOIN, asking(other, signing=signing))
    assert (status, said["code"]) == (409, "KEY_USED")


async def test_nothing_is_told_to_a_server_of_another_authority(here: Office, tmp_path: Path) -> None:
    told: list[str] = []

    async def watching(method: str, path: str, *more: Any) -> Any:
        told.append(path)
        return await here.enrolment(method, path, *more)

    token = await here.invited()
    wrong = JoinToken(secret=token.secret, authority="0" * 64, signer=token.signer)
    async with listening(here, watching) as url:
        with pytest.raises(IdentityError, match="another authority") as raised:
            await joined(here, url, tmp_path / "agent", wrong)
    assert raised.value.code == "WRONG_AUTHORITY"
    assert told == ["/agent/v1/authority"]


async def test_a_server_that_only_repeats_the_authority_of_another_is_not_believed(
    here: Office, tmp_path: Path
) -> None:
    """It knows the certificate, which is no secret, and has not its key."""
    from api.agents.authority import Authority
    from api.agents.tls import Tls

    other = Authority(tmp_path / "other", INSTALLATION)
    other.make(here.clock())
    async with listening(here, tls=Tls(other, ["127.0.0.1"], here.clock, frozenset)) as url:
        with pytest.raises(IdentityError) as raised:
            await joined(here, url, tmp_path / "agent")
    assert raised.value.code == "WRONG_AUTHORITY"
    assert (await here.row()).state is AgentState.INVITED


async def test_a_server_that_names_another_signer_is_not_followed(here: Office, tmp_path: Path) -> None:
    token = await here.invited()
    wrong = JoinToken(secret=token.secret, authority=token.authority, signer="0" * 64)
    async with listening(here) as url:
        with pytest.raises(IdentityError) as raised:
            await joined(here, url, tmp_path / "agent", wrong)
    assert raised.value.code == "WRONG_SIGNER"
    assert not (tmp_path / "agent" / "identity.json").exists()


async def test_the_second_signer_that_a_server_names_is_not_believed(here: Office, tmp_path: Path) -> None:
    async def adding(method: str, path: str, *more: Any) -> Any:
        status, said = await here.enrolment(method, path, *more)
        return status, dict(said) | ({"signers": [*said["signers"], "ab" * 32]} if "signers" in said else {})

    async with listening(here, adding) as url:
        who = await joined(here, url, tmp_path / "agent")
    assert who.signers == (here.signer.public_key().public_bytes_raw().hex(),)


# -- renewing ---------------------------------------------------------------------------------------------------------


async def test_a_renewal_is_the_next_generation_with_another_key(here: Office, tmp_path: Path) -> None:
    async with listening(here) as url:
        first = await joined(here, url, tmp_path / "agent")
        second = await renewed(first)
    one, two = (x509.load_pem_x509_certificate(each.certificate.encode()) for each in (first, second))
    assert (second.generation, second.signers, second.file != first.file) == (2, first.signers, True)
    assert one.public_key() != two.public_key()
    assert second.signing.private_bytes_raw() == first.signing.private_bytes_raw()
    assert sorted(each.name for each in (tmp_path / "agent").glob("tls-*")) == [second.file]


async def test_a_renewal_without_a_certificate_is_refused(here: Office) -> None:
    status, said = await here.asked(RENEW, {"csr": request()})
    assert (status, said["code"]) == (401, "NO_CERTIFICATE")


async def test_a_generation_counts_five_minutes_more_once_the_next_one_is_used(here: Office, tmp_path: Path) -> None:
    async with listening(here) as url:
        first = await joined(here, url, tmp_path / "agent")
        second = await renewed(first)
    here.clock.on(hours=2)
    old, new = serial(first.certificate), serial(second.certificate)
    assert _state(here, old) is State.ACTIVE  # nobody has taken the next one up
    assert _state(here, new) is State.ACTIVE
    here.clock.on(minutes=4, seconds=59)
    assert _state(here, old) is State.ACTIVE
    here.clock.on(seconds=1)
    assert _state(here, old) is State.SUPERSEDED
    assert _state(here, new) is State.ACTIVE


def _state(here: Office, number: int) -> State | None:
    member = here.roll.by_serial(number)
    return None if member is None else member.state


async def test_a_superseded_identity_that_is_shown_locks_the_agent(here: Office, tmp_path: Path) -> None:
    async with listening(here) as url:
        first = await joined(here, url, tmp_path / "agent")
        second = await renewed(first)
    here.roll.by_serial(serial(second.certificate))
    here.clock.on(minutes=5)
    await here.roll.misused(serial(first.certificate))
    assert (await here.row()).state is AgentState.LOCKED
    assert _state(here, serial(second.certificate)) is State.LOCKED
    assert isinstance(here.events[-1], AgentLocked)


async def test_a_copied_identity_that_is_renewed_by_both_locks_the_agent(here: Office, tmp_path: Path) -> None:
    async with listening(here) as url:
        first = await joined(here, url, tmp_path / "agent")
        shutil.copytree(tmp_path / "agent", tmp_path / "copy")
        copied = Identity.load(tmp_path / "copy")
        await renewed(copied)
        with pytest.raises(IdentityError) as raised:
            await renewed(first)
    assert raised.value.code == "IDENTITY_COPIED"
    assert (await here.row()).state is AgentState.LOCKED


async def test_a_renewal_whose_answer_was_lost_is_repeated_with_the_same_key(here: Office, tmp_path: Path) -> None:
    answers: list[int | None] = []

    async def losing(method: str, path: str, *more: Any) -> Any:
        status, said = await here.enrolment(method, path, *more)
        answers.append(said.get("generation"))
        return (status, said) if len(answers) != 3 else (503, {})  # authority, join, and the renewal that is lost

    async with listening(here, losing) as url:
        first = await joined(here, url, tmp_path / "agent")
        with pytest.raises(IdentityError) as raised:
            await renewed(first)
        assert raised.value.code == "UNREACHABLE"
        assert Identity.load(tmp_path / "agent") == first
        here.clock.on(hours=3)
        second = await renewed(first)
    assert answers == [None, 1, 2, 2]
    assert second.generation == 2


async def test_an_old_generation_asking_with_a_certified_key_of_its_own_is_refused(here: Office) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    _, said = await here.asked(JOIN, asking(await here.invited(), request(key)))
    status, problem = await here.asked(RENEW, {"csr": request(key)}, der(said["certificate"]))
    assert (status, problem["code"]) == (409, "KEY_USED")


# -- what operators decide --------------------------------------------------------------------------------------------


async def test_a_locked_agent_speaks_no_more_from_the_next_frame_on(here: Office) -> None:
    _, said = await here.asked(JOIN, asking(await here.invited()))
    number = serial(said["certificate"])
    assert _state(here, number) is State.ACTIVE
    await here.store.write(lambda c: agents.lock(c, WEB_1, "on holiday", "ann", here.clock()))
    await here.roll.refresh()
    assert _state(here, number) is State.LOCKED
    status, problem = await here.asked(RENEW, {"csr": request()}, der(said["certificate"]))
    assert (status, problem["code"]) == (403, "AGENT_LOCKED")
    await here.store.write(lambda c: agents.unlock(c, WEB_1, "ann", here.clock()))
    await here.roll.refresh()
    assert _state(here, number) is State.ACTIVE


async def test_a_removed_name_that_is_given_again_has_nothing_of_the_former(here: Office) -> None:
    _, said = await here.asked(JOIN, asking(await here.invited(kinds=("docker", "systemd"))))
    await here.store.write(lambda c: agents.remove(c, WEB_1, "ann", here.clock()))
    token = await here.invited(WEB_1, TargetId("default/other"), kinds=("process",))
    _, again = await here.asked(JOIN, asking(token))
    assert _state(here, serial(said["certificate"])) is None
    member = here.roll.by_serial(serial(again["certificate"]))
    assert member is not None
    assert (member.generation, member.kinds, member.targets) == (
        2,
        frozenset({"process"}),
        frozenset({TargetId("default/other")}),
    )
    assert here.roll.serves(T1) == ()


async def test_whoever_joins_again_is_a_new_identity_and_the_former_counts_no_more(here: Office) -> None:
    _, first = await here.asked(JOIN, asking(await here.invited()))
    _, second = await here.asked(JOIN, asking(await here.invited()))
    assert _state(here, serial(first["certificate"])) is None
    assert _state(here, serial(second["certificate"])) is State.ACTIVE
    assert second["generation"] == 2


async def test_the_audit_log_names_every_step(here: Office) -> None:
    from reconciler.store import audit

    token = await here.invited()
    await here.asked(JOIN, asking(token))
    await here.asked(JOIN, asking(token))
    entries = await here.store.read(audit.page)
    assert [(each.action, each.actor) for each in reversed(entries.items)] == [
        ("agent.invited", "ann"),
        ("agent.joined", "agent web-1"),
        ("agent.locked", "holdfast"),
    ]
    assert token.secret not in json.dumps([each.detail for each in entries.items])
