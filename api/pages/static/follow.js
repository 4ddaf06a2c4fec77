// Follows what a workload prints, below what the page shows already. Without this script the page is whole, and stands.
(() => {
  "use strict";

  const KEPT = 2000; // lines; the oldest go first
  const SAID = { gap: "lines may be missing here", again: "lines from here on may be repeated" };
  const printed = document.querySelector("pre[data-follow]");
  const state = document.getElementById("follow-state");
  if (!printed || !window.EventSource) return;

  let begun = false;

  function add(text, kind) {
    if (!begun) printed.replaceChildren(); // the stream begins with the same last lines
    begun = true;
    const below = printed.scrollHeight - printed.scrollTop - printed.clientHeight < 40;
    const line = document.createElement("span");
    if (kind) line.className = kind;
    line.textContent = `${text}\n`;
    printed.append(line);
    while (printed.childElementCount > KEPT) printed.firstElementChild.remove();
    if (below) printed.scrollTop = printed.scrollHeight;
  }

  const source = new EventSource(printed.dataset.follow);
  const over = (text) => {
    source.close();
    state.textContent = text;
  };
  source.addEventListener("hello", () => (state.textContent = "followed live"));
  source.addEventListener("line", (event) => add(JSON.parse(event.data).text));
  for (const [kind, text] of Object.entries(SAID)) {
    source.addEventListener(kind, () => add(`— ${text} —`, "soft"));
  }
  source.addEventListener("end", () => over("it prints no more"));
  source.addEventListener("problem", (event) => over(`not followed: ${JSON.parse(event.data).detail}`));
  source.addEventListener("error", () => {
    state.textContent = source.readyState === EventSource.CLOSED ? "not followed" : "connection lost, trying again";
  });
  addEventListener("pagehide", () => source.close());
})();
