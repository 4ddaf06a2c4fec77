"""The pages in a real browser: by keyboard, on every size of screen, under attack, in both lights, live and without any
script."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from reconciler.store import environments
from reconciler.store.records import HandSuspension
from tests.api.pages.stand import EDGE, HOSTILE, STAGING, Stand, utc
from tests.reconciler.rig import place

PAGES = (
    "/",
    "/environments/default/staging",
    "/environments/default/staging/plan",
    "/environments/default/staging/history",
    "/environments/default/staging/decisions/1",
    "/targets/default/staging-2",
    "/targets",
    "/jobs",
    "/jobs/default/staging/1",
    "/jobs/default/staging/1/artifacts",
    "/drift",
    "/releases",
    "/sources",
    "/agents",
    "/agents/staging-0",
    "/agents/staging-1",
    "/search?q=staging",
    "/environments/default/none-such",
)
SIZES = (360, 768, 1440)


@contextmanager
def tab(browser: Any, **options: Any) -> Iterator[Any]:
    """A page that fails the test when anything is run, asked or reported that should not be."""
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
    page = context.new_page()
    page.set_default_timeout(10_000)
    wrong: list[str] = []
    page.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("pageerror", lambda error: wrong.append(f"error {error}"))
    page.on("console", lambda said: wrong.append(said.text) if _bad(said) else None)
    page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith("http://127.") else None)
    yield page
    context.close()
    assert wrong == []


def _bad(said: Any) -> bool:
    """A violation of the policy, or an error that is no answer of ours (the page of an error has its status)."""
    return said.type == "error" and "Failed to load resource" not in said.text


def test_no_page_scrolls_sideways_at_any_size(made: Stand, chromium: Any) -> None:
    with tab(chromium) as page:
        for path in PAGES:
            page.goto(made.address + path)
            for width in SIZES:
                page.set_viewport_size({"width": width, "height": 900})
                wide = page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, f"{path} at {width}: {wide}"


AXE = """() => {
  const found = [];
  const visible = (each) => each.checkVisibility && each.checkVisibility();
  if (document.documentElement.lang !== "en") found.push("no language");
  if (!document.title) found.push("no title");
  for (const [name, number] of [["main", 1], ["header.top", 1], ["footer", 1], ["h1", 1]])
    if (document.querySelectorAll(name).length !== number) found.push(`${name} is not there once`);
  let level = 0;
  for (const each of document.querySelectorAll("h1, h2, h3")) {
    const next = Number(each.tagName[1]);
    if (next > level + 1) found.push(`${each.textContent} leaves out a level`);
    level = next;
  }
  for (const each of document.querySelectorAll("input:not([type=hidden]), select, textarea"))
    if (!each.labels.length && !each.getAttribute("aria-label")) found.push(`${each.name} has no label`);
  for (const each of document.querySelectorAll("a[href], button, summary"))
    if (!each.textContent.trim() && !each.getAttribute("aria-label")) found.push(`${each.outerHTML} has no name`);
  for (const each of document.querySelectorAll("nav, section, article"))
    if (!each.getAttribute("aria-label") && !each.getAttribute("aria-labelledby")) found.push(`${each.id} is unnamed`);
  for (const each of document.querySelectorAll("[aria-labelledby]"))
    if (!document.getElementById(each.getAttribute("aria-labelledby"))) found.push(`${each.id} is named by nothing`);
  for (const each of document.querySelectorAll("table"))
    if (!each.caption || !each.querySelector("th[scope]")) found.push("a table without caption or heads");
  for (const each of document.querySelectorAll("svg"))
    if (each.getAttribute("aria-hidden") !== "true" && !each.getAttribute("aria-label")) found.push("unnamed drawing");
  const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push(`${id} twice`);
  if (document.querySelector("[style], style, script:not([src]), [onclick]")) found.push("inline style or script");
  return found;
}"""


def test_every_page_has_its_landmarks_headings_labels_and_names(made: Stand, chromium: Any) -> None:
    with tab(chromium) as page:
        for path in PAGES:
            page.goto(made.address + path)
            assert page.evaluate(AXE) == [], path


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const behind = (each) => {
    for (let at = each; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((one) => one / 255).map((one) =>
      one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const each = walker.currentNode.parentElement;
    if (!text || !each.checkVisibility() || each.closest(".hidden")) continue;
    const style = getComputedStyle(each);
    const [one, two] = [light(rgba(style.color)), light(behind(each))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (two + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) found.set(`${each.className || each.tagName} ${style.color}`, ratio.toFixed(2));
  }
  return [...found];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_of_wcag_aa(made: Stand, chromium: Any, scheme: str) -> None:
    with tab(chromium, color_scheme=scheme) as page:
        for path in PAGES:
            page.goto(made.address + path)
            assert page.evaluate(CONTRAST) == [], f"{path} in {scheme}"


def test_the_keyboard_reaches_everything_in_order_and_the_focus_is_seen(made: Stand, chromium: Any) -> None:
    with tab(chromium) as page:
        page.goto(made.address)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.goto(made.address)
        order, seen = "[...document.querySelectorAll('a[href], button, input, summary')]", []
        for _ in range(page.evaluate(f"{order}.filter((each) => each.checkVisibility()).length")):
            page.keyboard.press("Tab")
            seen.append(page.evaluate(f"{order}.indexOf(document.activeElement)"))
            style = "getComputedStyle(document.activeElement)"
            assert page.evaluate(f"{style}.outlineStyle !== 'none' && parseFloat({style}.outlineWidth) >= 2")
        assert seen == sorted(seen)
        assert seen[0] == 0
        assert len(set(seen)) == len(seen)


def test_a_person_gets_from_the_fleet_to_the_reason_by_keyboard_alone(made: Stand, chromium: Any) -> None:
    with tab(chromium) as page:
        page.goto(made.address)
        page.get_by_role("link", name=re.compile("staging-2")).focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/targets/default/staging-2")
        assert "a valid sticker says one thing and another runs" in page.inner_text("#target-why")


def test_hostile_texts_are_shown_and_never_run(made: Stand, chromium: Any) -> None:
    now = utc()
    suspension = HandSuspension(reason=HOSTILE, actor=HOSTILE, since=now, until=now + timedelta(hours=1))
    made.write(lambda c: environments.suspend(c, STAGING, suspension))
    try:
        with tab(chromium) as page:
            for path in (
                "/environments/default/staging",
                "/environments/default/staging?verdict=unmanaged",
                "/environments/default/staging/plan",
                "/targets/default/staging-4",
                "/targets/default/staging-5/api/logs",
                "/drift",
                f"/search?q={HOSTILE}",
                f"/environments/default/{HOSTILE.replace('/', '')}",
            ):
                page.goto(made.address + path)
                assert "onerror=alert(1)" in page.inner_text("main"), path
                assert page.locator("main img, main script").count() == 0, path
            page.wait_for_timeout(100)
    finally:
        made.write(lambda c: environments.resume(c, STAGING, "ada", utc()))


def test_a_change_is_seen_without_a_reload_and_what_was_opened_stays_open(made: Stand, chromium: Any) -> None:
    with tab(chromium) as page:
        page.goto(f"{made.address}/environments/default/edge")
        page.wait_for_selector("#live-state[data-state=live]")
        page.evaluate("window.unloaded = false")
        page.locator("#env-placements details summary").nth(1).click()
        made.write(lambda c: environments.suspend(c, EDGE, HandSuspension(reason="look", actor="ada", since=utc())))
        try:
            page.wait_for_selector("#env-notes .note:has-text('look')", timeout=5_000)
            assert page.evaluate("window.unloaded") is False
            assert page.evaluate("document.querySelectorAll('#env-placements details')[1].open") is True
        finally:
            made.write(lambda c: environments.resume(c, EDGE, "ada", utc()))
        page.wait_for_selector("#env-notes .note", state="detached", timeout=5_000)


def test_what_a_workload_prints_is_followed_as_text(made: Stand, chromium: Any) -> None:
    here = place(0, environment=EDGE)
    host = made.rig.world.host(here.target)
    thing = next(iter(host.things))
    made.portal.call(host.say, thing, "before")
    with tab(chromium) as page:
        page.goto(f"{made.address}/targets/{here.target}/api/logs")
        page.wait_for_selector("#follow-state:has-text('followed live')")
        made.portal.call(host.say, thing, f"after {HOSTILE}")
        page.wait_for_selector("pre.printed span:has-text('after <img')")
        said = page.locator("pre.printed").inner_text().splitlines()
        assert [line for line in said if line.startswith(("before", "after"))] == ["before", f"after {HOSTILE}"]


def test_the_focus_survives_an_exchange(made: Stand, chromium: Any) -> None:
    with tab(chromium) as page:
        page.goto(made.address)
        page.wait_for_selector("#live-state[data-state=live]")
        page.get_by_role("link", name="edge", exact=True).focus()
        old = page.evaluate_handle("document.getElementById('fleet-rows')")
        made.write(lambda c: environments.suspend(c, EDGE, HandSuspension(reason="look", actor="ada", since=utc())))
        try:
            page.wait_for_function("(old) => old !== document.getElementById('fleet-rows')", arg=old, timeout=8_000)
            assert page.evaluate("document.activeElement.textContent") == "edge"
        finally:
            made.write(lambda c: environments.resume(c, EDGE, "ada", utc()))


def test_without_a_script_everything_is_there_and_works(made: Stand, chromium: Any) -> None:
    with tab(chromium, java_script_enabled=False) as page:
        page.goto(made.address)
        assert page.locator("a.cell").count() >= 12
        page.get_by_role("link", name="staging", exact=True).click()
        assert page.locator("article.placement").count() == 7
        page.get_by_label("Reason").last.fill("tea")
        page.get_by_role("button", name="Suspend").click()
        assert "tea" in page.inner_text("#env-notes")
        page.get_by_role("button", name="Resume").click()
        assert page.locator("#env-notes .note").count() == 0


def test_a_plan_is_read_and_carried_out_and_its_job_watched_to_its_end(made: Stand, chromium: Any) -> None:
    with tab(chromium) as page:
        page.goto(f"{made.address}/environments/default/staging")
        page.get_by_role("link", name="Plan and sync").click()
        assert "staging-2" in page.inner_text("section:has(#changes)")
        page.get_by_role("button", name="Sync staging").click()
        page.wait_for_url("**/jobs/default/staging/*")
        page.wait_for_selector("#job-facts .mark:has-text('completed')", timeout=10_000)


def test_the_light_is_chosen_without_a_script_and_kept(made: Stand, chromium: Any) -> None:
    with tab(chromium, java_script_enabled=False, color_scheme="light") as page:
        page.goto(f"{made.address}/jobs?state=failed")
        page.get_by_role("button", name="Dark").click()
        assert page.url.endswith("/jobs?state=failed")
        assert page.locator("html[data-theme=dark]").count() == 1
        page.goto(made.address)
        assert page.locator("html[data-theme=dark]").count() == 1
