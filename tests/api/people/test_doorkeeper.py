"""Who is let in, by what, and for how long."""

from __future__ import annotations

import time
from dataclasses import replace

import anyio
import httpx2
import pytest

from api.house import House
from api.people import cookies, passwords, roles
from api.people.doorkeeper import Doorkeeper
from api.people.passwords import Cost
from api.people.principal import Principal
from reconciler.store import people
from tests.api.people.conftest import HERE, PASSWORD, Clock, asked, browser, limits, logged_in

PROBE = "/probe/shop/staging"


@pytest.fixture
async def ada(house: House) -> None:
    await asked(house, "user_add", name="ada", password=PASSWORD, grants=["operator"], place="shop/*")


async def token(house: House, *scopes: str, **more: object) -> dict[str, str]:
    made = await asked(house, "token_create", name="ci", scopes=list(scopes), **more)
    return {"authorization": f"Bearer {made['token']}"}


async def test_nobody_is_let_in_without_anything(house: House, keeper: Doorkeeper) -> None:
    async with browser(house, keeper) as client:
        answer = await client.get(PROBE)
    assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED")


@pytest.mark.usefixtures("ada")
async def test_whoever_logs_in_is_let_in_where_something_is_granted(house: House, keeper: Doorkeeper) -> None:
    async with browser(house, keeper) as client:
        await logged_in(client)
        assert (await client.get(PROBE)).json() == {"actor": "ada"}
        assert (await client.get("/probe/other/staging")).status_code == 403


@pytest.mark.usefixtures("ada")
async def test_the_unknown_the_wrong_and_the_disabled_get_one_answer(house: House, keeper: Doorkeeper) -> None:
    await asked(house, "user_add", name="joe", password=PASSWORD)
    await asked(house, "user_disable", name="joe")
    answers = set()
    async with browser(house, keeper) as client:
        for name, password in (("ada", "wrong"), ("nobody-here", PASSWORD), ("joe", PASSWORD), ("", ""), ("\x00", "é")):
            answer = await client.post("/login", json={"name": name, "password": password})
            answers.add((answer.status_code, answer.text, "set-cookie" in answer.headers))
    assert len(answers) == 1


async def test_the_unknown_take_as_long_as_the_wrong(house: House) -> None:
    """Measured on the whole of what differs: the hashing, at today's cost."""
    kept = "scrypt$32768$8$1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB"
    took: dict[str | None, list[float]] = {kept: [], None: []}
    for _ in range(5):
        for known, times in took.items():
            began = time.process_time()
            assert not await passwords.fits("wrong", known)
            times.append(time.process_time() - began)
    known, unknown = (min(times) for times in took.values())
    assert min(known, unknown) > 0.01
    assert max(known, unknown) < 1.6 * min(known, unknown)


@pytest.mark.usefixtures("ada")
async def test_guesses_at_one_account_are_limited_wherever_they_come_from(house: House) -> None:
    keeper = Doorkeeper(house, limits(account=3))
    answers = []
    for last in range(5):
        async with browser(house, keeper, address=f"10.0.{last}.1", base="https://hold.example") as client:
            answers.append((await client.post("/login", json={"name": "ada", "password": "wrong"})).status_code)
    assert answers == [401, 401, 401, 429, 429]
    async with browser(house, keeper, base="https://hold.example") as client:
        right = await client.post("/login", json={"name": "ada", "password": PASSWORD})
    assert (right.status_code, right.json()["code"]) == (429, "TOO_MANY_REQUESTS")
    assert 0 < int(right.headers["retry-after"]) <= 60


async def test_guesses_of_one_peer_are_limited_whatever_they_are_at(house: House) -> None:
    keeper = Doorkeeper(house, limits(peer=3))
    async with browser(house, keeper) as client:
        tries = [(await client.post("/login", json={"name": f"u{n}", "password": "x"})).status_code for n in range(5)]
    assert tries == [401, 401, 401, 429, 429]


async def test_guesses_made_all_at_once_are_limited_too(house: House) -> None:
    keeper = Doorkeeper(house, limits(account=3))
    answers: list[int] = []

    async def guess(client: httpx2.AsyncClient) -> None:
        answers.append((await client.post("/login", json={"name": "ada", "password": "wrong"})).status_code)

    async with browser(house, keeper) as client, anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(guess, client)
    assert sorted(answers) == [401] * 3 + [429] * 7


@pytest.mark.usefixtures("ada")
async def test_logins_that_succeed_are_not_counted(house: House) -> None:
    keeper = Doorkeeper(house, limits(account=2, peer=2))
    async with browser(house, keeper) as client:
        for _ in range(5):
            await logged_in(client)


# -- sessions ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("ada")
async def test_a_session_ends_after_half_an_hour_of_silence(house: House, keeper: Doorkeeper, clock: Clock) -> None:
    async with browser(house, keeper) as client:
        await logged_in(client)
        clock.on(minutes=29)
        assert (await client.get(PROBE)).status_code == 200
        clock.on(minutes=29)
        assert (await client.get(PROBE)).status_code == 200
        clock.on(minutes=30)
        assert (await client.get(PROBE)).status_code == 401


@pytest.mark.usefixtures("ada")
async def test_a_session_ends_after_twelve_hours_whatever_it_is_used(
    house: House, keeper: Doorkeeper, clock: Clock
) -> None:
    async with browser(house, keeper) as client:
        await logged_in(client)
        for _ in range(35):
            clock.on(minutes=20)
            assert (await client.get(PROBE)).status_code == 200
        clock.on(minutes=20)
        assert (await client.get(PROBE)).status_code == 401


@pytest.mark.usefixtures("ada")
async def test_a_login_gets_a_new_secret_and_ends_the_former_session(house: House, keeper: Doorkeeper) -> None:
    async with browser(house, keeper) as client:
        await logged_in(client)
        first = client.cookies["holdfast_here"]
        await logged_in(client)
        assert client.cookies["holdfast_here"] != first
        client.cookies.clear()
        client.cookies.set("holdfast_here", first, domain="127.0.0.1")
        assert (await client.get(PROBE)).status_code == 401


@pytest.mark.usefixtures("ada")
async def test_a_secret_that_the_browser_brings_along_is_never_taken_up(house: House, keeper: Doorkeeper) -> None:
    planted = cookies.made()
    async with browser(house, keeper) as client:
        client.cookies.set("holdfast_here", planted, domain="127.0.0.1")
        await logged_in(client)
        assert planted not in [cookie.value for cookie in client.cookies.jar if cookie.domain == "127.0.0.1"][-1:]
        client.cookies.clear()
        client.cookies.set("holdfast_here", planted, domain="127.0.0.1")
        assert (await client.get(PROBE)).status_code == 401


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("user_password", {"name": "ada", "password": "another one entirely"}),
        ("user_grant", {"name": "ada", "what": "auditor"}),
        ("user_revoke", {"name": "ada", "what": "operator", "place": "shop/*"}),
        ("user_disable", {"name": "ada"}),
    ],
)
async def test_every_session_ends_with_a_change_of_what_its_person_is(
    house: House, keeper: Doorkeeper, command: str, arguments: dict[str, str]
) -> None:
    async with browser(house, keeper) as one, browser(house, keeper) as other:
        await logged_in(one)
        await logged_in(other)
        await asked(house, command, **arguments)
        assert [(await each.get(PROBE)).status_code for each in (one, other)] == [401, 401]


@pytest.mark.usefixtures("ada")
async def test_a_logout_ends_the_session_and_takes_the_cookie(house: House, keeper: Doorkeeper) -> None:
    async with browser(house, keeper) as client:
        page = await logged_in(client)
        kept = client.cookies["holdfast_here"]
        assert (await client.post("/logout", headers=page)).status_code == 204
        assert "holdfast_here" not in client.cookies
        client.cookies.set("holdfast_here", kept, domain="127.0.0.1")
        assert (await client.get(PROBE)).status_code == 401


@pytest.mark.usefixtures("ada")
async def test_no_secret_is_in_the_database_as_it_was_sent(house: House, keeper: Doorkeeper) -> None:
    bearer = await token(house, "viewer")
    async with browser(house, keeper) as client:
        page = await logged_in(client)
        sent = [client.cookies["holdfast_here"], page["x-csrf-token"], PASSWORD]
    sent.append(bearer["authorization"].rpartition("_")[2])
    await house.store.aclose()
    content = b"".join(file.read_bytes() for file in house.settings.state.glob("holdfast.db*"))
    assert [each for each in sent if each.encode() in content] == []


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize(
    ("said", "onward"),
    [
        ("/environments/shop/prod?at=x", "/environments/shop/prod?at=x"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("https://evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("%2F%2Fevil.example", "/"),
        ("/%2F%2Felsewhere.example", "/%2F%2Felsewhere.example"),  # a browser takes that for a path of this host
        ("/%5Celsewhere.example", "/%5Celsewhere.example"),
        ("/a\r\nset-cookie: x=y", "/"),
        ("", "/"),
    ],
)
async def test_a_form_leads_on_to_a_page_of_ours_alone(
    house: House, keeper: Doorkeeper, said: str, onward: str
) -> None:
    async with browser(house, keeper) as client:
        answer = await client.post("/login", data={"name": "ada", "password": PASSWORD, "next": said})
        assert (answer.status_code, answer.headers["location"]) == (303, onward)
        wrong = await client.post("/login", data={"name": "ada", "password": "x", "next": said})
        assert wrong.headers["location"].startswith("/login?problem=UNAUTHENTICATED&next=%2F")
        assert "evil" not in wrong.headers["location"]


# -- where sessions have a place --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("ada")
async def test_over_tls_the_cookie_is_bound_to_this_host(house: House, keeper: Doorkeeper) -> None:
    async with browser(house, keeper, base="https://hold.example", address="10.0.0.9") as client:
        answer = await client.post("/login", json={"name": "ada", "password": PASSWORD})
    name, *words = (word.strip() for word in answer.headers["set-cookie"].split(";"))
    assert name.startswith("__Host-holdfast=")
    assert {word.lower() for word in words} == {"httponly", "secure", "path=/", "samesite=strict"}


@pytest.mark.usefixtures("ada")
async def test_over_plain_http_on_this_machine_the_cookie_has_a_name_that_every_browser_takes(
    house: House, keeper: Doorkeeper
) -> None:
    async with browser(house, keeper) as client:
        answer = await client.post("/login", json={"name": "ada", "password": PASSWORD})
    assert answer.headers["set-cookie"].startswith("holdfast_here=")
    assert "secure" not in answer.headers["set-cookie"].lower()


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize(
    ("base", "address", "headers"),
    [
        ("http://hold.example", "10.0.0.9", {}),
        ("http://127.0.0.1", "10.0.0.9", {}),
        ("http://hold.example", "127.0.0.1", {}),  # a proxy on this machine that nobody said to trust
        ("http://127.0.0.1", "127.0.0.1", {"x-forwarded-for": "10.0.0.9"}),
        ("http://hold.example", "10.0.0.9", {"x-forwarded-proto": "https"}),
    ],
)
async def test_over_plain_http_from_elsewhere_there_are_no_sessions(
    house: House, keeper: Doorkeeper, base: str, address: str, headers: dict[str, str]
) -> None:
    async with browser(house, keeper, base=base, address=address) as client:
        answer = await client.post("/login", json={"name": "ada", "password": PASSWORD}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "TLS_REQUIRED")


@pytest.mark.usefixtures("ada")
async def test_a_session_of_plain_http_is_not_believed_over_tls(house: House, keeper: Doorkeeper) -> None:
    async with browser(house, keeper) as client:
        await logged_in(client)
        secret = client.cookies["holdfast_here"]
    async with browser(house, keeper, base="https://hold.example", address="10.0.0.9") as client:
        answer = await client.get(PROBE, headers={"cookie": f"holdfast_here={secret}"})
    assert answer.status_code == 401


@pytest.mark.usefixtures("ada")
async def test_a_trusted_proxy_says_who_asks_and_how(house: House) -> None:
    behind = replace(house, settings=replace(house.settings, trusted_proxies="127.0.0.1, 10.1.0.0/16"))
    keeper = Doorkeeper(behind, limits(peer=2))
    forwarded = {"x-forwarded-proto": "https", "x-forwarded-for": "6.6.6.6, 10.0.0.7, 10.1.2.3"}
    async with browser(behind, keeper, base="http://hold.example") as client:
        first = await client.post("/login", json={"name": "ada", "password": PASSWORD}, headers=forwarded)
        assert first.headers["set-cookie"].startswith("__Host-holdfast=")
        wrong = {"name": "joe", "password": "x"}
        for _ in range(2):
            assert (await client.post("/login", json=wrong, headers=forwarded)).status_code == 401
        lied = forwarded | {
            "x-forwarded-for": "7.7.7.7, 10.0.0.7, 10.1.2.3"
        }  # what the client itself sent changes nothing
        assert (await client.post("/login", json=wrong, headers=lied)).status_code == 429
        other = forwarded | {"x-forwarded-for": "10.0.0.8"}
        assert (await client.post("/login", json=wrong, headers=other)).status_code == 401


# -- other sites ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("ada")
async def test_a_page_of_ours_changes_something(house: House, keeper: Doorkeeper) -> None:
    async with browser(house, keeper) as client:
        page = await logged_in(client)
        assert (await client.post(PROBE, headers=page, content="x")).json() == {"actor": "ada", "body": "x"}
        form = {"csrf_token": page["x-csrf-token"], "why": "because"}
        answer = await client.post(PROBE, headers={"origin": HERE}, data=form)
        assert "why=because" in answer.json()["body"]


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "same-origin", "origin": "http://evil.example"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9090"},
        {"origin": "http://127.0.0.1:8080.evil.example"},
        {"sec-fetch-site": None},
        {"x-csrf-token": None},
        {"x-csrf-token": "wrong"},
        {"x-csrf-token": "é".encode()},
    ],
)
async def test_another_site_changes_nothing_in_a_persons_name(
    house: House, keeper: Doorkeeper, headers: dict[str, str | bytes | None]
) -> None:
    async with browser(house, keeper) as client:
        page = await logged_in(client)
        sent = {name: value for name, value in (page | headers).items() if value is not None}
        if "origin" in headers and "sec-fetch-site" not in headers:
            del sent["sec-fetch-site"]
        answer = await client.post(PROBE, headers=sent)
        assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")


@pytest.mark.usefixtures("ada")
async def test_another_session_s_token_is_not_this_one_s(house: House, keeper: Doorkeeper) -> None:
    async with browser(house, keeper) as one, browser(house, keeper) as other:
        await logged_in(one)
        page = await logged_in(other)
        assert (await one.post(PROBE, headers=page)).status_code == 403


@pytest.mark.usefixtures("ada")
async def test_another_site_logs_nobody_in(house: House, keeper: Doorkeeper) -> None:
    async with browser(house, keeper) as client:
        for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}):
            answer = await client.post("/login", data={"name": "ada", "password": PASSWORD}, headers=headers)
            assert "set-cookie" not in answer.headers
            assert "problem=FORBIDDEN" in answer.headers["location"]


# -- machines ---------------------------------------------------------------------------------------------------------


async def test_a_token_does_what_it_was_made_for_and_where(house: House, keeper: Doorkeeper) -> None:
    bearer = await token(house, "operator", places=["shop/staging"])
    async with browser(house, keeper) as client:
        assert (await client.post(PROBE, headers=bearer)).json()["actor"].startswith("token ci (")
        assert (await client.post("/probe/shop/prod", headers=bearer)).status_code == 403


@pytest.mark.usefixtures("ada")
async def test_with_a_token_cookies_count_for_nothing(house: House, keeper: Doorkeeper) -> None:
    viewer = await token(house, "viewer")
    async with browser(house, keeper) as client:
        page = await logged_in(client)
        assert (await client.post(PROBE, headers=page | viewer)).status_code == 403
        for wrong in ("Bearer x", "Bearer", "Basic YWRhOmFkYQ==", "", viewer["authorization"][:-1] + "!"):
            assert (await client.get(PROBE, headers={"authorization": wrong})).status_code == 401


async def test_a_token_ends_when_it_is_revoked_or_has_expired(house: House, keeper: Doorkeeper, clock: Clock) -> None:
    short, long = await token(house, "viewer", days=1), await token(house, "viewer")
    async with browser(house, keeper) as client:
        clock.on(days=1)
        assert (await client.get(PROBE, headers=short)).status_code == 401
        assert (await client.get(PROBE, headers=long)).status_code == 200
        await asked(house, "token_revoke", id=long["authorization"].split("_")[1])
        assert (await client.get(PROBE, headers=long)).status_code == 401


async def test_a_token_lives_ninety_days_unless_said_and_never_above_a_year(house: House) -> None:
    made = await asked(house, "token_create", name="ci", scopes=["viewer"])
    assert (made["expires_at"] - made["created_at"]).days == 90
    with pytest.raises(Exception, match="from 1 to 366"):
        await asked(house, "token_create", name="ci", scopes=["viewer"], days=367)


async def test_the_last_use_of_a_token_is_written_once_an_hour(house: House, keeper: Doorkeeper, clock: Clock) -> None:
    bearer = await token(house, "viewer")
    id = bearer["authorization"].split("_")[1]
    used = []
    async with browser(house, keeper) as client:
        for _ in range(4):
            clock.on(minutes=25)
            await client.get(PROBE, headers=bearer)
            found = await house.store.read(lambda c: people.token(c, id))
            assert found is not None
            used.append(found.used_at)
    assert len(set(used)) == 2


async def test_a_persons_token_does_no_more_than_the_person_may_by_now(house: House, keeper: Doorkeeper) -> None:
    await asked(house, "user_add", name="joe", password=PASSWORD, grants=["admin", "operator"])
    async with browser(house, keeper) as client:
        await logged_in(client, "joe")
        joe = (await client.get("/api/v1/whoami")).json()
        assert joe["natural"]
    principal = await _principal(house, "joe")
    made = await asked(house, "token_create", principal, name="ci", scopes=["operator"])
    bearer = {"authorization": f"Bearer {made['token']}"}
    async with browser(house, keeper) as client:
        assert (await client.post(PROBE, headers=bearer)).status_code == 200
        await asked(house, "user_revoke", name="joe", what="operator")
        assert (await client.post(PROBE, headers=bearer)).status_code == 403
        assert (await client.get(PROBE, headers=bearer)).status_code == 200  # admin reads
        await asked(house, "user_disable", name="joe")
        assert (await client.get(PROBE, headers=bearer)).status_code == 401


async def test_wrong_tokens_are_limited_by_peer(house: House) -> None:
    keeper = Doorkeeper(house, limits(token=3))
    async with browser(house, keeper) as client:
        wrong = {"authorization": f"Bearer holdfast_{'0' * 12}_{'A' * 43}"}
        assert [(await client.get(PROBE, headers=wrong)).status_code for _ in range(5)] == [401] * 3 + [429] * 2


@pytest.mark.usefixtures("ada")
async def test_the_command_line_is_given_a_session_to_send_as_bearer(
    house: House, keeper: Doorkeeper, clock: Clock
) -> None:
    async with browser(house, keeper) as client:
        answer = await client.post("/api/v1/login", json={"user": "ada", "password": PASSWORD})
        assert "set-cookie" not in answer.headers
        bearer = {"authorization": f"Bearer {answer.json()['token']}"}
        assert (await client.post(PROBE, headers=bearer)).json()["actor"] == "ada"
        said = (await client.get("/api/v1/whoami", headers=bearer)).json()
        assert (said["natural"], said["csrf"]) == (True, None)
        clock.on(minutes=30)
        assert (await client.post(PROBE, headers=bearer)).status_code == 401


async def test_the_command_line_is_refused_like_everybody(house: House) -> None:
    keeper = Doorkeeper(house, limits(account=2))
    async with browser(house, keeper) as client:
        wrong = {"user": "ada", "password": "a wrong one, which is long"}
        answers = [await client.post("/api/v1/login", json=wrong) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [401, 401, 429]
        odd = await client.post("/api/v1/login", json={"user": "ada", "password": ["a wrong one"]})
        assert odd.status_code == 422
        assert "a wrong one" not in odd.text


@pytest.mark.usefixtures("ada")
async def test_a_person_changes_their_own_password_by_the_old_one(house: House, keeper: Doorkeeper) -> None:
    other = "another one entirely"
    async with browser(house, keeper) as client, browser(house, keeper) as elsewhere:
        page = await logged_in(client)
        await logged_in(elsewhere)
        for old, new, status in (("wrong", other, 401), (PASSWORD, "short", 422), (PASSWORD, other, 204)):
            answer = await client.post("/api/v1/password", json={"old": old, "new": new}, headers=page)
            assert answer.status_code == status
        assert [(await each.get(PROBE)).status_code for each in (client, elsewhere)] == [401, 401]
        assert (await client.post("/login", json={"name": "ada", "password": PASSWORD})).status_code == 401
        await logged_in(client, password=other)


async def test_a_token_changes_nobodys_password(house: House, keeper: Doorkeeper) -> None:
    bearer = await token(house, "operator")
    async with browser(house, keeper) as client:
        answer = await client.post("/api/v1/password", json={"old": PASSWORD, "new": PASSWORD}, headers=bearer)
    assert answer.status_code == 403


# -- passwords --------------------------------------------------------------------------------------------------------


async def test_a_password_kept_under_lower_cost_is_hashed_anew_at_the_next_login(
    house: House, keeper: Doorkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    cheap = await passwords.encoded(PASSWORD, Cost(n=1024))
    await asked(house, "user_add", name="ada", password=PASSWORD)
    ada = await house.store.read(lambda c: people.by_name(c, "ada"))
    assert ada is not None
    await house.store.write(lambda c: people.set_password(c, ada.id, cheap, "boss", house.now()))
    async with browser(house, keeper) as client:
        await logged_in(client)
        fresh = await house.store.read(lambda c: people.by_name(c, "ada"))
        assert fresh is not None
        assert fresh.password is not None
        assert fresh.password.startswith("scrypt$32768$8$1$")
        assert (await client.get("/api/v1/whoami")).status_code == 200  # and nobody is logged out by it
        await logged_in(client)


async def test_who_is_asked_of_oneself(house: House, keeper: Doorkeeper) -> None:
    await asked(house, "user_add", name="ada", password=PASSWORD, grants=["auditor"], place="shop/*")
    async with browser(house, keeper) as client:
        page = await logged_in(client)
        said = (await client.get("/api/v1/whoami")).json()
    assert said == {
        "actor": "ada",
        "natural": True,
        "grants": {"shop/*": ["audit.read", "read"]},
        "csrf": page["x-csrf-token"],
    }


async def _principal(house: House, name: str) -> Principal:
    """As a door would know them."""
    person = await house.store.read(lambda c: people.by_name(c, name))
    assert person is not None
    granted = await house.store.read(lambda c: people.grants(c, person.holders))
    return Principal(actor=person.name, grants=roles.grants(granted), natural=True)
