// Keeps an open page current: when the server says that what it shows has changed, the page asks for itself again and
// exchanges the parts that differ. Without this script every page is whole, only not by itself up to date.
(() => {
  "use strict";

  const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const PAUSE = 700; // ms between two exchanges, however fast news come

  function age(seconds) {
    const size = Math.abs(seconds);
    for (const [unit, name] of UNITS) {
      if (size >= unit) {
        const span = `${Math.floor(size / unit)} ${name}`;
        return seconds > 0 ? `${span} ago` : `in ${span}`;
      }
    }
    return "now";
  }

  let skew = 0; // how far this machine's clock is from the server's, in ms

  function tick() {
    const now = Date.now() - skew;
    for (const time of document.querySelectorAll("time[data-age]")) {
      const text = age((now - Date.parse(time.dateTime)) / 1000);
      if (time.textContent !== text) time.textContent = text;
    }
  }

  const page = document.querySelector("main[data-live]");
  const state = document.getElementById("live-state");
  if (page) skew = Date.now() - Date.parse(page.dataset.now);
  setInterval(tick, 1000);
  if (!page || !window.EventSource) return;

  const kept = new Map(); // part -> what the server said it is
  for (const part of document.querySelectorAll("[data-part]")) kept.set(part.id, part.outerHTML);

  let token = page.dataset.token;
  let busy = false;
  let again = false;

  function say(word, text) {
    if (state.dataset.state === word) return;
    state.dataset.state = word;
    state.textContent = text;
  }

  // What a person has opened, marked or typed into stays as it is.
  function exchange(old, fresh) {
    const focused = old.contains(document.activeElement) ? document.activeElement : null;
    if (focused && /^(INPUT|SELECT|TEXTAREA)$/.test(focused.tagName)) return false;
    const opened = new Map([...old.querySelectorAll("details[id]")].map((each) => [each.id, each.open]));
    const at = focused ? [...old.querySelectorAll("a[href], button, summary, [tabindex]")].indexOf(focused) : -1;
    const name = focused && (focused.id || focused.getAttribute("href"));
    old.replaceWith(fresh);
    for (const [id, open] of opened) {
      const found = document.getElementById(id);
      if (found) found.open = open;
    }
    if (!focused) return true;
    const places = [...fresh.querySelectorAll("a[href], button, summary, [tabindex]")];
    const same = places.find((each) => name && (each.id === name || each.getAttribute("href") === name));
    (same || places[at] || page).focus({ preventScroll: true });
    return true;
  }

  async function renew(news) {
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      const answer = await fetch(location.href, { credentials: "same-origin", redirect: "error", cache: "no-store" });
      if (answer.ok) {
        const next = new DOMParser().parseFromString(await answer.text(), "text/html");
        const main = next.querySelector("main[data-live]");
        if (main) skew = Date.now() - Date.parse(main.dataset.now);
        for (const fresh of next.querySelectorAll("[data-part]")) {
          const old = document.getElementById(fresh.id);
          const text = fresh.outerHTML;
          if (old && kept.get(fresh.id) !== text && exchange(old, document.importNode(fresh, true))) {
            kept.set(fresh.id, text);
          }
        }
        token = main ? main.dataset.token : news;
        tick();
      }
    } catch {
      say("lost", "connection lost, trying again");
    } finally {
      await new Promise((done) => setTimeout(done, PAUSE));
      busy = false;
      if (again) {
        again = false;
        renew(news);
      }
    }
  }

  const source = new EventSource(page.dataset.live);
  source.addEventListener("pulse", (event) => {
    say("live", "live");
    if (event.data !== token) renew(event.data);
  });
  source.addEventListener("open", () => say("live", "live"));
  source.addEventListener("error", () => say("lost", "connection lost, trying again"));
  addEventListener("pagehide", () => source.close());
})();
