"""`holdfast doctor`: what targets lack, and how to get it. Needs the documents, and no daemon."""

from __future__ import annotations

import difflib
from argparse import Namespace
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from api.cli import show
from api.problem import FAILED, OK, Problem
from api.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from desired_state.resolve import Resolved
    from desired_state.sources.base import Tree
    from desired_state.sources.declared import Source
    from drivers.contract import Diagnosis, Look

MARKS: Final = {"ok": ("✓", "32"), "warning": ("!", "33"), "missing": ("✗", "31"), "unknown": ("?", "35")}
WRONG: Final = ("missing", "unknown")


def examine(settings: Settings, given: Namespace) -> int:
    import anyio

    looks = _chosen(_resolved(settings), given.target)
    answer = anyio.run(_examined, settings, looks, given.target is None)
    if given.output == "json":
        show.as_json(answer)
    else:
        _print(answer)
    return FAILED if any(said["grade"] in WRONG for said in _all(answer)) else OK


def _resolved(settings: Settings) -> list[Resolved]:
    """What every source means; a source with findings is nothing to examine targets by."""
    from api.cli.documents import load

    if settings.sources is None:
        return [_sound(str(settings.documents), load(settings.documents))]
    return [_sound(name, resolved) for name, resolved in _of_sources(settings)]


def _sound(name: str, resolved: Resolved) -> Resolved:
    if resolved.findings:
        first, count = resolved.findings[0], len(resolved.findings)
        raise Problem("FINDINGS", f"{name} has {count} findings, see `holdfast validate`; the first: {first}")
    return resolved


def _of_sources(settings: Settings) -> list[tuple[str, Resolved]]:
    import anyio

    from api import sources
    from api.client import ask
    from api.runtimes import ConnectionModels
    from desired_state.load import load
    from desired_state.sources.base import SourceUnavailable, Tree

    said = sources.read(settings)
    try:
        trees = dict(anyio.run(_read, said))
    except SourceUnavailable as error:
        raise Problem("NO_DOCUMENTS", str(error)) from None
    for name in (name for name, source in said.items() if source.database is not None):
        answer = ask(settings, "export")
        files = {file: text.encode() for file, text in answer["files"].items()}
        trees[name] = Tree(files=files, revision=str(answer["revision"]))
    return [(name, load(tree, ConnectionModels())) for name, tree in trees.items()]


async def _read(said: Mapping[str, Source]) -> Mapping[str, Tree]:
    from contextlib import aclosing

    from api import sources
    from drivers.secrets.resolver import Resolver
    from stickers.redaction import Redactor

    async with aclosing(Resolver(Redactor())) as secret:
        return await sources.trees(said, secret)


def _chosen(resolved: list[Resolved], name: str | None) -> list[Look]:
    from drivers.contract import Look

    looks = {
        str(target.id): Look(target=target, placements=state.by_target[target.id])
        for each in resolved
        for state in each.environments.values()
        for target in state.targets
    }
    if name is None:
        return list(looks.values())
    wanted = name if "/" in name else f"default/{name}"
    if wanted in looks:
        return [looks[wanted]]
    near = difflib.get_close_matches(wanted, looks, n=1)
    there = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(looks)[:10]) or 'none'}"
    raise Problem("NO_TARGET", f"there is no target {name[:80]!r} in the documents{there}")


async def _examined(settings: Settings, looks: list[Look], with_here: bool) -> dict[str, Any]:
    from api import doctor, here
    from api.wiring import examining

    async with examining(settings) as (drivers, tools, redactor):
        own = here.examined(settings) if with_here else ()
        found = await doctor.examined(drivers, tools, looks)
        answer = {
            "here": [_plain(said) for said in own],
            "targets": [
                {
                    "id": look.target.id,
                    "environment": look.target.environment,
                    "driver": look.target.driver,
                    "diagnoses": [_plain(said) for said in found[look.target.id]],
                }
                for look in looks
            ],
        }
        cleaned: dict[str, Any] = redactor.clean_data(answer)
        return cleaned


def _plain(said: Diagnosis) -> dict[str, Any]:
    return {"about": said.about, "grade": str(said.grade), "sentence": said.sentence, "remedy": said.remedy}


def _all(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [*answer["here"], *(said for target in answer["targets"] for said in target["diagnoses"])]


def _print(answer: dict[str, Any]) -> None:
    if answer["here"]:
        print(show.paint("here", "1"))
        _print_each(answer["here"])
    for target in answer["targets"]:
        print(show.paint(f"{show.clean(target['id'])}  {show.clean(target['driver'])}", "1"))
        _print_each(target["diagnoses"])
    grades = Counter(said["grade"] for said in _all(answer))
    counted = ", ".join(f"{grades[grade]} {grade}" for grade in (*WRONG, "warning", "ok") if grades[grade])
    targets = len(answer["targets"])
    print(f"{targets} target{'' if targets == 1 else 's'}: {counted or 'nothing was examined'}")


def _print_each(diagnoses: list[dict[str, Any]]) -> None:
    for said in diagnoses:
        mark, colour = MARKS[said["grade"]]
        word = "" if said["grade"] == "ok" else f"{said['grade']}: "
        print(f"  {show.paint(mark, colour)} {show.clean(said['about']):<9} {word}{show.clean(said['sentence'])}")
        if said["remedy"]:
            print(f"      → {show.clean(said['remedy'])}")
