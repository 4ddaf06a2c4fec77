"""The pages as they are sent: what they allow, what they refuse, and what whoever may not see is not told."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import httpx2
import pytest
from sqlalchemy import Connection

from api.http import guard
from api.http.app import application
from api.pages.routes import lost, router
from reconciler.store import contents, jobs
from reconciler.store.tables import artifact as artifact_table
from stickers import names
from tests.api.pages.stand import EDGE, HOSTILE, PROD, STAGING, Doorkeeper, Stand, stand

BEGINS = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
HTML = {"accept": "text/html"}


def get(made: Stand, path: str, **more: Any) -> httpx2.Response:
    with httpx2.Client(base_url=made.address, trust_env=False, timeout=20) as client:
        return client.get(path, **more)


def post(made: Stand, path: str, data: dict[str, str], **more: Any) -> httpx2.Response:
    with httpx2.Client(base_url=made.address, trust_env=False, timeout=20) as client:
        return client.post(path, data=data, **more)


@pytest.mark.parametrize("path", ["/", "/environments/default/none-such", "/static/live.js", "/drift.csv", "/nowhere"])
def test_every_answer_allows_nothing_from_elsewhere(made: Stand, path: str) -> None:
    headers = get(made, path, headers=HTML).headers
    assert headers["content-security-policy"].startswith(BEGINS)
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"


def test_a_page_is_kept_by_nobody_and_a_file_for_ever(made: Stand) -> None:
    page = get(made, "/")
    assert page.headers["cache-control"] == "no-store"
    found = re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text)
    assert len(found) >= 3
    for address in found:
        assert "immutable" in get(made, address).headers["cache-control"]


def test_no_page_names_another_site(made: Stand) -> None:
    for path in ("/", "/environments/default/staging", "/jobs", "/static/holdfast.css", "/static/live.js"):
        assert "http" not in re.sub(r"http://www\.w3\.org/\S+", "", get(made, path).text).replace("http-equiv", "")


def test_the_script_is_small() -> None:
    from api.pages.templating import STATIC

    assert len((STATIC / "live.js").read_text().splitlines()) < 150


def test_every_target_is_a_cell_with_its_verdict_in_words(made: Stand) -> None:
    text = get(made, "/").text
    assert 'title="staging-0: stopped"' in text
    assert re.search(r'class="cell unknown[^"]*" href="/targets/default/staging-3"', text)


def test_a_large_environment_is_counted_and_only_what_is_not_in_sync_is_drawn(made: Stand) -> None:
    row = get(made, "/").text.split(f'href="/environments/{EDGE}"')[1].split("</li>")[0]
    assert "130 in sync" in row
    assert "/targets/" not in row


def test_what_was_not_seen_is_not_green_anywhere(made: Stand) -> None:
    for path in ("/", f"/environments/{STAGING}", "/targets/default/staging-3", "/targets", "/drift"):
        for match in re.findall(
            r'<(?:a|span) class="(?:mark|cell) (\w+)[^>]*>(?:(?!</).)*?\?', get(made, path).text, re.S
        ):
            assert match == "unknown"


def test_an_environment_shows_three_sides_and_where_they_differ(made: Stand) -> None:
    text = get(made, f"/environments/{STAGING}?verdict=lying").text
    assert text.count('<article class="placement') == 1
    for side in ("Desired", "Sticker", "Observed"):
        assert f'<th scope="col">{side}</th>' in text
    assert "differs: " in text
    assert "POLICY_REPORT" in text


def test_an_unknown_verdict_is_refused_with_what_is_known(made: Stand) -> None:
    answer = get(made, f"/environments/{STAGING}?verdict=purple")
    assert answer.status_code == 422
    assert "in sync" in answer.text


def test_placements_are_paged_and_each_is_shown_once(made: Stand) -> None:
    path, seen = f"/environments/{EDGE}", list[str]()
    for _ in range(5):
        text = get(made, path).text
        seen += re.findall(r'<h3><a href="/targets/([^"]+)"', text)
        following = re.search(r'href="([^"]+)">Next</a>', text)
        if following is None:
            break
        path = following[1].replace("&amp;", "&")
    assert len(seen) == len(set(seen)) == 130


def test_time_travel_tells_what_was_known_and_nothing_later(made: Stand) -> None:
    first = made.read(lambda c: jobs.page(c, STAGING, limit=1)).items[0].created_at
    before = get(made, f"/environments/{STAGING}/history", params={"at": "2020-01-01T00:00"})
    assert "Nothing was known" in before.text
    then = get(made, f"/environments/{STAGING}/history", params={"at": first.isoformat()})
    assert "missing" in then.text
    assert "lying" not in then.text.split("<main")[1].split("</main>")[0]


def test_a_time_that_is_none_is_refused(made: Stand) -> None:
    assert get(made, f"/environments/{STAGING}/history?at=yesterday").status_code == 422


def test_every_cell_leads_to_its_reason_and_that_to_the_decision(made: Stand) -> None:
    text = get(made, "/targets/default/staging-2").text
    assert "a valid sticker says one thing and another runs" in text
    decision = re.search(r'href="(/environments/default/staging/decisions/\d+)"', text)
    assert decision is not None
    assert "Drifted" in get(made, decision[1]).text
    evidence = re.search(r'href="(/evidence/[^"]+)"', text)
    assert evidence is not None
    assert "signature valid" in get(made, evidence[1]).text


def test_the_report_is_the_same_as_json_and_as_a_table(made: Stand) -> None:
    rows = json.loads(get(made, "/drift.json").text)["placements"]
    assert [row["verdict"] for row in rows][:2] == ["stopped", "lying"]
    assert len(get(made, "/drift.csv").text.splitlines()) == len(rows) + 1
    assert get(made, "/drift.html").headers["content-disposition"] == 'attachment; filename="drift.html"'


def test_a_search_finds_every_kind(made: Stand) -> None:
    text = get(made, "/search?q=staging").text
    for kind in ("Environments", "Targets", "Jobs"):
        assert f"{kind}</h2>" in text
    assert "Components</h2>" in get(made, "/search?q=worker").text
    assert "Releases</h2>" in get(made, "/search?q=shop").text


@pytest.mark.parametrize("word", ["%", "_", "\\", "'; drop table job", "a" * 5_000])
def test_a_search_takes_every_word_as_it_is(made: Stand, word: str) -> None:
    answer = get(made, "/search", params={"q": word})
    assert answer.status_code == 200
    assert "Nothing has that in its name" in answer.text


def test_a_source_shows_its_age_its_fault_and_what_it_declares(made: Stand) -> None:
    text = get(made, "/sources").text
    assert "read and accepted" in text
    assert f'href="/environments/{STAGING}"' in text.split('id="sources"')[1].split('id="accepted"')[0]
    made.rig.shelf.broken = "the disk is on fire"
    made.portal.call(made.rig.reconciler.read, next(iter(made.house.sources)))
    try:
        text = get(made, "/sources").text
        assert "not taken over" in text
        assert "the disk is on fire" in text
        assert "the disk is on fire" in get(made, "/").text
    finally:
        made.rig.shelf.broken = None
        made.portal.call(made.rig.reconciler.read, next(iter(made.house.sources)))


# -- who may what -----------------------------------------------------------------------------------------------------

READER = {"cookie": "who=reader"}


def test_a_reader_sees_the_environments_that_are_theirs_and_no_others(made: Stand) -> None:
    for path in ("/", "/targets", "/drift", "/jobs", "/sources", "/search?q=default", "/search?q=edge"):
        text = get(made, path, headers=READER).text
        assert "prod" not in text.replace("production", ""), path
        assert "/environments/default/edge" not in text, path
    assert "staging" in get(made, "/", headers=READER).text


@pytest.mark.parametrize(
    "path",
    [
        "/environments/default/prod",
        "/environments/default/prod/plan",
        "/environments/default/prod/history",
        "/environments/default/prod/decisions/1",
        "/jobs/default/prod/1",
        "/live/environments/default/prod",
        "/live/jobs/default/prod/1",
    ],
)
def test_a_reader_is_refused_where_they_have_no_grant(made: Stand, path: str) -> None:
    assert get(made, path, headers=READER).status_code == 403


def test_a_target_that_a_reader_may_not_see_is_not_there_for_them(made: Stand) -> None:
    assert get(made, "/targets/default/prod-1", headers=READER).status_code == 404
    assert get(made, "/targets/default/none-such", headers=READER).status_code == 404


def test_a_reader_is_offered_nothing_to_do_and_can_do_nothing(made: Stand) -> None:
    text = get(made, f"/environments/{STAGING}", headers=READER).text
    assert "What you may do" not in text
    assert "Plan and sync" not in text
    for deed in ("sync", "rollback", "adopt", "suspend", "resume"):
        answer = post(made, f"/environments/{STAGING}/{deed}", {"reason": "x", "plan_hash": "x"}, headers=READER)
        assert answer.status_code == 403, deed
    assert post(made, f"/jobs/{STAGING}/1/request", {"what": "cancel"}, headers=READER).status_code == 403


def test_a_plan_that_has_moved_is_not_carried_out(made: Stand) -> None:
    answer = post(made, f"/environments/{STAGING}/sync", {"plan_hash": "sha256:" + "0" * 64})
    assert answer.status_code == 409
    assert "the world has moved" in answer.text


def test_a_deed_without_its_reason_is_refused(made: Stand) -> None:
    assert post(made, f"/environments/{STAGING}/suspend", {"reason": "  "}).status_code == 422
    assert post(made, f"/environments/{STAGING}/sync", {}).status_code == 422


def test_a_wish_that_a_job_cannot_have_is_told_as_a_page(made: Stand) -> None:
    answer = post(made, f"/jobs/{STAGING}/1/request", {"what": "cancel"})
    assert answer.status_code == 409
    assert "That did not work" in answer.text


@pytest.mark.parametrize(
    "address", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", ""]
)
def test_a_form_sends_nobody_elsewhere(made: Stand, address: str) -> None:
    answer = post(made, "/theme", {"theme": "dark", "here": address}, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"


def test_whoever_is_not_known_is_asked_to_log_in_and_comes_back(made: Stand) -> None:
    answer = get(made, "/drift?verdict=lying", headers={"cookie": "who=nobody"}, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=%2Fdrift%3Fverdict%3Dlying"
    login = get(made, answer.headers["location"], headers={"cookie": "who=nobody"})
    assert login.status_code == 200
    assert 'autocomplete="current-password"' in login.text


def test_a_login_that_failed_says_so_and_no_more(made: Stand) -> None:
    assert "Name or password is wrong" in get(made, "/login?problem=UNAUTHENTICATED").text
    assert "<script" not in get(made, "/login?problem=<script>").text.split("<main")[1]


def test_every_route_declares_who_may_pass(made: Stand) -> None:
    guard.insist(application(made.house, Doorkeeper(), more=(router, lost)).router.routes)
    verbs = {
        route.path: [getattr(each, "verb", None) for each in guard.guards(route)]  # type: ignore[arg-type,attr-defined]
        for route in router(made.house).routes
    }
    assert [path for path, found in verbs.items() if found == [None]] == ["/login", "/static/{name}", "/theme"]


# -- news -------------------------------------------------------------------------------------------------------------


def test_a_stream_tells_at_once_what_it_knows_and_then_only_what_is_new(made: Stand) -> None:
    with (
        httpx2.Client(base_url=made.address, trust_env=False, timeout=10) as client,
        client.stream("GET", "/live/jobs/default/staging/1") as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        found = [next(lines) for _ in range(4)]
    assert "event: pulse" in found
    assert 'data-token="' in get(made, "/jobs/default/staging/1").text
    assert found[-1].removeprefix("data: ") in get(made, "/jobs/default/staging/1").text


# -- empty ------------------------------------------------------------------------------------------------------------


def test_a_house_without_anything_says_what_to_do_next() -> None:
    with stand(running=False) as empty:
        text = get(empty, "/").text
        assert "holdfast init" in text
        assert "make demo" in text
        for path in ("/drift", "/jobs", "/targets", "/releases", "/sources", "/search"):
            assert get(empty, path).status_code == 200, path


def test_a_job_leads_to_its_files_and_each_is_shown_as_text_and_downloaded_raw(made: Stand) -> None:
    assert f'href="/jobs/{PROD}/1/artifacts"' in get(made, f"/jobs/{PROD}/1").text
    listed = get(made, f"/jobs/{PROD}/1/artifacts").text
    digest = re.search(r'href="[^"]+/artifacts/(sha256[^"]+)">manifest.json', listed)
    assert digest is not None
    shown = get(made, f"/jobs/{PROD}/1/artifacts/{digest[1]}")
    assert "&#34;changes&#34;" in shown.text
    assert shown.headers["content-security-policy"].startswith("default-src 'none'")
    [raw] = re.findall(r'href="(/api/v1/[^"]+)" download', shown.text)
    file = get(made, raw)
    assert file.headers["content-disposition"].startswith("attachment;")
    assert f"sha256:{hashlib.sha256(file.content).hexdigest()}" in shown.text


def test_a_file_with_markup_is_text_and_nothing_else(made: Stand) -> None:
    def keep(c: Connection) -> str:
        job = jobs.load(c, names.job_id(PROD, 1))
        assert job is not None
        [digest] = contents.keep_texts(c, [HOSTILE], job.created_at)
        about = {"environment": PROD, "job": job.id, "direction": "forward", "target": "", "component": "", "slot": ""}
        row = about | {"name": HOSTILE, "kind": "manifest", "media_type": HOSTILE, "content": digest}
        c.execute(artifact_table.insert().values(**row, kept_at=job.created_at))
        return str(digest)

    digest = made.write(keep)
    for path in (f"/jobs/{PROD}/1/artifacts", f"/jobs/{PROD}/1/artifacts/{digest}"):
        text = get(made, path).text
        assert "&lt;script&gt;" in text
        assert "<script>alert" not in text
        assert "<img src=x" not in text
    raw = get(made, f"/api/v1/environments/{PROD}/jobs/1/artifacts/{digest}")
    assert (raw.headers["content-type"], raw.text) == ("text/plain; charset=utf-8", HOSTILE)
    assert "<" not in raw.headers["content-disposition"]


def test_files_of_what_a_reader_may_not_see_are_refused(made: Stand) -> None:
    assert get(made, f"/jobs/{PROD}/1/artifacts", headers=READER).status_code == 403
    assert get(made, f"/jobs/{PROD}/1/artifacts/sha256:{'0' * 64}", headers=READER).status_code == 403
    assert get(made, f"/jobs/{PROD}/1/artifacts/sha256:{'0' * 64}").status_code == 404


def test_a_row_of_the_fleet_draws_the_drift_of_its_day(made: Stand) -> None:
    text = get(made, "/").text
    row = text[text.index(f'href="/environments/{STAGING}"') :]
    drawn = re.search(r'<svg class="spark"[^>]*aria-label="([^"]+)"', row)
    assert drawn is not None
    assert re.fullmatch(r"drifted placements over 24 h: [1-9]\d* now, [1-9]\d* at most", drawn[1])
