"""Who issues certificates: what they are good for, what happens to the keys, and how one issuer follows another."""

from __future__ import annotations

import ssl
import stat
from datetime import timedelta
from pathlib import Path

import pytest
import structlog
from anyio import to_thread
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from api.agents.authority import LIST, Authority, fingerprint
from api.agents.tls import Tls
from api.problem import Problem
from drivers.agent.duty.identity import Identity, IdentityError
from reconciler.store import agents
from reconciler.store.agents import Wanted
from stickers.names import AgentName, InstallationId, TargetId
from tests.api.agents.offices import INSTALLATION, WEB_1, Clock, Office, joined, listening, renewed


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Authority:
    made = Authority(tmp_path / "authority", INSTALLATION)
    assert made.make(clock())
    return made


def test_an_authority_is_made_once(authority: Authority, clock: Clock) -> None:
    root = authority.fingerprint
    assert not authority.make(clock())
    assert Authority(authority.directory, INSTALLATION).fingerprint == root


def test_private_keys_are_for_their_owner_alone(authority: Authority) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in authority.directory.glob("*.pem")}
    assert modes == {f"{authority.root.id}.pem": 0o600, f"{authority.issuing.id}.pem": 0o600}


def test_an_issuer_issues_for_a_year_and_makes_no_other_issuers(authority: Authority, clock: Clock) -> None:
    of = authority.issuing.certificate.extensions.get_extension_for_class
    assert of(x509.BasicConstraints).value == x509.BasicConstraints(ca=True, path_length=0)
    permitted = of(x509.NameConstraints).value.permitted_subtrees
    assert permitted == [x509.UniformResourceIdentifier(INSTALLATION)]
    assert authority.issuing.not_after - clock() == timedelta(days=365)


def test_nothing_outlives_its_issuer(authority: Authority, clock: Clock) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    clock.on(days=364, hours=20)
    issued = authority.client(key, Wanted(agent=WEB_1, generation=1), clock())
    assert issued.not_after == authority.issuing.not_after
    clock.on(hours=4)
    with pytest.raises(Problem, match="authority rotate") as raised:
        authority.client(key, Wanted(agent=WEB_1, generation=1), clock())
    assert raised.value.code == "AUTHORITY_EXPIRED"


def test_a_rotation_needs_the_key_of_the_root_and_says_where(
    authority: Authority, clock: Clock, tmp_path: Path
) -> None:
    path = authority.directory / f"{authority.root.id}.pem"
    kept = path.rename(tmp_path / "elsewhere.pem")
    assert not authority.has_root_key
    with pytest.raises(Problem, match=str(path)) as raised:
        authority.rotate(clock())
    assert raised.value.code == "ROOT_OFFLINE"
    kept.rename(path)
    assert authority.rotate(clock()).id == authority.issuing.id


def test_another_process_sees_a_rotation_and_a_retirement(authority: Authority, clock: Clock) -> None:
    other, former = Authority(authority.directory, INSTALLATION), authority.issuing
    assert other.issuing.id == former.id
    made = authority.rotate(clock())
    assert [each.id for each in other.trusted] == [former.id, made.id]
    authority.retire(former.id, clock())
    assert [each.id for each in other.trusted] == [made.id]
    assert not (authority.directory / f"{former.id}.pem").exists()


def test_the_issuer_that_issues_is_not_retired(authority: Authority, clock: Clock) -> None:
    with pytest.raises(Problem) as raised:
        authority.retire(authority.issuing.id, clock())
    assert raised.value.code == "AUTHORITY_IN_USE"


def test_what_a_killed_rotation_leaves_is_nothing_that_counts(
    authority: Authority, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (authority.directory / LIST).read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Authority, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        authority.rotate(clock())
    monkeypatch.undo()
    assert (authority.directory / LIST).read_bytes() == before
    assert authority.client(
        ec.generate_private_key(ec.SECP256R1()).public_key(), Wanted(agent=WEB_1, generation=1), clock()
    )


def test_an_exposed_key_is_not_used(authority: Authority, clock: Clock) -> None:
    (authority.directory / f"{authority.issuing.id}.pem").chmod(0o640)
    with pytest.raises(Problem, match="chmod 0600") as raised:
        authority.server(["127.0.0.1"], clock())
    assert raised.value.code == "KEYS_EXPOSED"


@pytest.mark.parametrize(
    "spoiled", [b"", b"{}", b'{"format": "another"}', b'{"format": "holdfast.authority/v1", "root": 1}']
)
def test_a_damaged_list_is_named(authority: Authority, spoiled: bytes) -> None:
    (authority.directory / LIST).write_bytes(spoiled)
    with pytest.raises(Problem, match=LIST) as raised:
        _ = Authority(authority.directory, INSTALLATION).root
    assert raised.value.code == "AUTHORITY_DAMAGED"


def test_the_authority_of_another_installation_is_not_used(authority: Authority) -> None:
    with pytest.raises(Problem) as raised:
        _ = Authority(authority.directory, InstallationId("ffffffff")).root
    assert raised.value.code == "AUTHORITY_FOREIGN"


def test_the_fingerprint_is_that_of_the_certificate(authority: Authority) -> None:
    der = ssl.PEM_cert_to_DER_cert(authority.root.pem)
    import hashlib

    assert authority.fingerprint == hashlib.sha256(der).hexdigest() == fingerprint(authority.root.certificate)


def test_the_listener_shows_a_new_certificate_before_the_old_one_ends(authority: Authority, clock: Clock) -> None:
    tls = Tls(authority, ["127.0.0.1", "holdfast.example.com"], clock, frozenset)
    first = tls()
    clock.on(days=4)
    assert tls() is first
    clock.on(days=1)
    assert tls() is not first


def test_the_log_says_when_the_issuer_ends_soon(authority: Authority, clock: Clock) -> None:
    tls = Tls(authority, ["127.0.0.1"], clock, frozenset)
    with structlog.testing.capture_logs() as said:
        tls()
        assert said == []
        clock.on(days=306)
        tls()
    assert [(each["event"], each["do"]) for each in said] == [("authority_ends_soon", "holdfast authority rotate")]


# -- rotation, with those that are away -------------------------------------------------------------------------------


async def test_half_the_fleet_is_offline_while_the_issuer_is_rotated(
    here: Office, tmp_path: Path, clock: Clock
) -> None:
    """Those that are there come over as they renew; those that come back later are let in with what they have, believe
    the new issuer without ever having heard of it, and renew; nobody is invited again."""
    names = [AgentName(f"host-{number}") for number in range(6)]
    clock.on(hours=-20)  # it ends today: TLS goes by the clock of the machine
    async with listening(here) as url:
        fleet = {
            name: await joined(here, url, tmp_path / name, await here.invited(name, TargetId(f"default/{name}")))
            for name in names
        }
    former = here.authority.issuing
    made = here.authority.rotate(clock())
    async with listening(here):
        for name in names[:3]:
            fleet[name] = await _came_back(here, fleet[name])
    clock.on(hours=20)
    left = await here.store.read(lambda c: agents.issued_by(c, former.id, clock()))
    assert left == 3
    async with listening(here):
        for name in names[3:]:
            fleet[name] = await _came_back(here, fleet[name])
    assert await here.store.read(lambda c: agents.issued_by(c, former.id, clock())) == 0
    here.authority.retire(former.id, clock())
    async with listening(here):
        for name in names:
            assert (await _came_back(here, fleet[name])).generation == 3
    issuers = {x509.load_pem_x509_certificate(each.certificate.encode()).issuer for each in fleet.values()}
    assert issuers == {made.certificate.subject}


async def _came_back(here: Office, who: Identity) -> Identity:
    """Its servers are where they are now."""
    from dataclasses import replace

    from drivers import strongbox
    from drivers.agent.duty import identity

    moved = replace(Identity.load(who.directory), servers=tuple(here.servers))
    strongbox.put(who.directory / identity.FILE, identity._text(moved))
    return await renewed(moved)


async def test_what_a_retired_issuer_signed_is_refused_in_the_handshake(
    here: Office, tmp_path: Path, clock: Clock
) -> None:
    async with listening(here) as url:
        who = await joined(here, url, tmp_path / "agent")
    former = here.authority.issuing
    here.authority.rotate(clock())
    here.authority.retire(former.id, clock())
    async with listening(here):
        with pytest.raises(IdentityError) as raised:
            await _came_back(here, who)
    assert raised.value.code == "UNREACHABLE"  # TLS 1.3 tells a client so by an alert after its own handshake


async def test_a_certificate_of_another_name_space_is_not_believed(here: Office, tmp_path: Path, clock: Clock) -> None:
    """The issuer is constrained to this installation's names, so that even its key makes no others."""
    wanted, key = Wanted(agent=WEB_1, generation=1), ec.generate_private_key(ec.SECP256R1())
    assert here.authority.issuing
    here.authority.installation = InstallationId("another")  # after the list was read, which is of the real one
    forged = here.authority.client(key.public_key(), wanted, clock())
    here.authority.installation = INSTALLATION
    assert not await to_thread.run_sync(_verifies, here, forged.pem, key)
    honest = here.authority.client(key.public_key(), wanted, clock())
    assert await to_thread.run_sync(_verifies, here, honest.pem, key)


def _verifies(here: Office, pem: str, key: ec.EllipticCurvePrivateKey) -> bool:
    """Whether the listener would let it in: both sides in memory."""
    import tempfile

    from drivers.agent.duty import identity

    server = Tls(here.authority, ["127.0.0.1"], here.clock, frozenset)()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=here.authority.root.pem)
    with tempfile.NamedTemporaryFile() as file:
        file.write(identity._pem(key) + pem.encode())
        file.flush()
        client.load_cert_chain(file.name)
    return _shake(client, server)


def _shake(client: ssl.SSLContext, server: ssl.SSLContext) -> bool:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up, server_hostname="127.0.0.1")
    theirs = server.wrap_bio(up, down, server_side=True)
    done = {ours: False, theirs: False}
    for _ in range(10):
        for side in done:
            try:
                side.do_handshake()
                done[side] = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError:
                return False
    return all(done.values())
