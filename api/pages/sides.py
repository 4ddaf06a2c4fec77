"""One placement, side by side: what is desired, what its sticker says, what was observed; and where they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from api.pages import words
from reconciler.store.records import DecisionInterval, StandingInterval


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One side of one line. `full` is what is too long to be read; `differs` from what is desired."""

    text: str
    full: str = ""
    differs: bool = False
    known: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One property on all three sides."""

    name: str
    desired: Cell
    sticker: Cell
    observed: Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Blockage:
    """Why nothing happens to a placement, and until when. `until` is a moment in the text of the decision."""

    code: str
    reason: str
    remedy: str
    until: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """A placement as its page and the environment's show it. `held`: it is held to its last good instead of what is
    declared."""

    standing: StandingInterval
    lines: tuple[Line, ...]
    held: str | None
    blockage: Blockage | None

    @property
    def differences(self) -> list[str]:
        return list(self.standing.content["differences"])

    @property
    def sequence(self) -> int | None:
        worn = self.standing.content["sticker"]
        return worn["sequence"] if worn else None

    @property
    def evidence(self) -> str | None:
        worn = self.standing.content["sticker"]
        return worn["evidence"] if worn else None

    @property
    def health(self) -> str:
        workload = _workload(self.standing)
        return str(workload["health"]["detail"]) if workload else ""


def sides(standing: StandingInterval, blocked: Mapping[str, Blockage]) -> Sides:
    content = standing.content
    goal = content["wanted"] or content["declared"]
    declared, wanted = content["declared"], content["wanted"]
    held = declared["release"] if declared and wanted and declared != wanted else None
    return Sides(
        standing=standing,
        lines=tuple(_lines(standing, goal)),
        held=held,
        blockage=blocked.get(str(standing.id)),
    )


def blockages(decision: DecisionInterval | None) -> dict[str, Blockage]:
    """What the last decision says is blocked, by placement."""
    rows = decision.content.get("blocked", ()) if decision else ()
    return {
        row["placement"]: Blockage(
            code=row["code"], reason=row["reason"], remedy=row.get("remedy", ""), until=row.get("until")
        )
        for row in rows
    }


def _lines(standing: StandingInterval, goal: Mapping[str, Any] | None) -> Iterable[Line]:
    worn, workload = standing.content["sticker"], _workload(standing)
    claim = worn["claim"] if worn else None
    yield Line(
        name="release",
        desired=_text(_of(goal, "release"), "nothing"),
        sticker=_against(_of(goal, "release"), _of(claim, "release"), _no_sticker(standing)),
        observed=_running_release(standing, goal, claim),
    )
    for name in ("artifact", "configuration"):
        wanted, said = _of(goal, name), _of(claim, name)
        yield Line(
            name=name,
            desired=_digest(wanted),
            sticker=_against(wanted, said, _no_sticker(standing)),
            observed=_against(wanted, _of(workload, name), _unseen(standing)),
        )
    yield Line(
        name="state",
        desired=_text(None if goal is None else "running" if goal["running"] else "stopped", "nothing"),
        sticker=_text(None if worn is None else str(worn["phase"]).replace("_", " "), _no_sticker(standing)),
        observed=_state(goal, workload, standing),
    )


def _running_release(
    standing: StandingInterval, goal: Mapping[str, Any] | None, claim: Mapping[str, Any] | None
) -> Cell:
    """A runtime knows no releases: it is told by the content, where that is one of a release at hand."""
    workload = _workload(standing)
    if workload is None:
        return Cell(text=_unseen(standing), known=False)
    for side in (goal, claim):
        if side and all(side[name] == workload[name] for name in ("artifact", "configuration")):
            return _against(_of(goal, "release"), side["release"], "")
    return Cell(text="none that is known", known=False)


def _state(goal: Mapping[str, Any] | None, workload: Mapping[str, Any] | None, standing: StandingInterval) -> Cell:
    if workload is None:
        return Cell(text=_unseen(standing), known=False, differs=standing.verdict.value == "missing")
    health = workload["health"]["state"]
    wanted = "running" if goal is None or goal["running"] else "stopped"
    text = workload["state"] if health == "unchecked" else f"{workload['state']}, {health}"
    return Cell(text=text, differs=workload["state"] != wanted or health == "unhealthy")


def _of(side: Mapping[str, Any] | None, name: str) -> str | None:
    return None if side is None else side[name]


def _workload(standing: StandingInterval) -> Mapping[str, Any] | None:
    seen = standing.content["standing"]
    found: Mapping[str, Any] | None = seen["workload"] if seen else None
    return found


def _no_sticker(standing: StandingInterval) -> str:
    return {"none": "no sticker", "valid": "not known"}.get(standing.trust, f"{standing.trust} sticker")


def _unseen(standing: StandingInterval) -> str:
    if unmanaged := standing.content.get("unmanaged"):
        return str(unmanaged["artifact"])
    return "not seen" if standing.verdict.value == "unknown" else "nothing there"


def _against(wanted: str | None, found: str | None, otherwise: str) -> Cell:
    if found is None:
        return Cell(text=otherwise, known=False)
    differs = wanted is not None and wanted != found
    return Cell(text=words.short(found) if found.startswith("sha256:") else found, full=found, differs=differs)


def _digest(text: str | None) -> Cell:
    return Cell(text=words.short(text), full=text) if text else Cell(text="nothing", known=False)


def _text(text: str | None, otherwise: str) -> Cell:
    return Cell(text=text, full=text) if text else Cell(text=otherwise, known=False)
