"""The pages of agents: what they say of each, to whom, and that nothing a host says of itself is obeyed."""

from __future__ import annotations

import re
from typing import Any

import httpx2

from reconciler.store import agents
from reconciler.store.records import AgentState
from stickers.names import AgentName
from tests.api.pages.stand import HOSTILE, Stand, stand
from tests.api.pages.test_browser import tab

HTML = {"accept": "text/html"}
READER = {"who": "reader"}


def get(made: Stand, path: str, cookies: dict[str, str] | None = None) -> httpx2.Response:
    with httpx2.Client(base_url=made.address, trust_env=False, timeout=20, cookies=cookies) as client:
        return client.get(path, headers=HTML)


def post(made: Stand, path: str, data: dict[str, str], cookies: dict[str, str] | None = None) -> httpx2.Response:
    with httpx2.Client(base_url=made.address, trust_env=False, timeout=20, cookies=cookies) as client:
        return client.post(path, data=data, headers=HTML)


def rows(page: httpx2.Response) -> list[str]:
    return re.findall(r'<tr><th scope="row"><a href="/agents/([^"]+)">', page.text)


def test_those_that_need_somebody_come_first(made: Stand) -> None:
    page = get(made, "/agents")
    assert rows(page) == ["staging-2", "staging-1", "prod-0", "staging-3", "staging-0"]
    for said in ("1 locked", "1 offline", "2 invited", "1 online", "systemd", "1.2.3", "can join until"):
        assert said in page.text, said


def test_whoever_sees_one_environment_sees_its_agents_alone(made: Stand) -> None:
    page = get(made, "/agents", READER)
    assert rows(page) == ["staging-2", "staging-1", "staging-3", "staging-0"]
    assert "prod" not in page.text.split("<main")[1]
    assert get(made, "/agents/prod-0", READER).status_code == 404
    assert get(made, "/agents/staging-0", READER).status_code == 200


def test_whoever_does_not_keep_agents_is_offered_nothing_and_does_nothing(made: Stand) -> None:
    assert "<form class" not in get(made, "/agents/staging-1", READER).text.split("<main")[1].split("</main")[0]
    assert post(made, "/agents/staging-1/lock", {"reason": "me"}, READER).status_code == 403


def test_an_agent_is_locked_and_unlocked_by_its_page(made: Stand) -> None:
    name = AgentName("staging-3")
    assert post(made, f"/agents/{name}/lock", {"reason": "the disk is full"}).status_code == 303
    assert "the disk is full" in get(made, f"/agents/{name}").text
    assert post(made, f"/agents/{name}/unlock", {}).status_code == 303
    found = made.read(lambda c: agents.by_name(c, name))
    assert found is not None
    assert found.state is AgentState.INVITED


def test_what_a_host_says_of_itself_is_shown_and_never_obeyed(made: Stand, chromium: Any) -> None:
    with tab(chromium) as page:
        for path in ("/agents", "/agents/staging-0", "/agents/staging-2"):
            page.goto(made.address + path)
            assert page.locator("main img[src=x], main script").count() == 0, path
        assert HOSTILE in page.locator("#agent").inner_text()  # the reason of the lock, as it was given
        page.goto(f"{made.address}/agents/staging-0")
        assert HOSTILE in page.locator("#agent").inner_text()


def test_a_page_of_agents_is_current_by_itself(made: Stand, chromium: Any) -> None:
    with tab(chromium) as page:
        page.goto(f"{made.address}/agents/staging-1")
        made.write(lambda c: agents.drain(c, AgentName("staging-1"), True, "ada", made.house.now()))
        page.locator("#agent", has_text="given nothing new").wait_for()
        made.write(lambda c: agents.drain(c, AgentName("staging-1"), False, "ada", made.house.now()))


def test_where_there_is_none_the_page_says_what_to_do() -> None:
    with stand(running=False) as made:
        page = get(made, "/agents")
        assert "holdfast agent invite" in page.text
        assert rows(page) == []
