"""Clauses about what is not this placement's: other components, and whatever is not ours."""

from __future__ import annotations

from dataclasses import replace

from drivers.conformance.bench import Power, Version
from drivers.conformance.clause import clause, must
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Result
from drivers.errors import Conflict


@clause()
async def another_component_is_never_touched(stage: Stage) -> None:
    """Deploys, reverts and removals of one component leave another on the same target as it is."""
    web = await stage.deployed(Wish(component="web"))
    before = await stage.scene(web.id)
    one = await stage.deployed(Wish(), keep=0)
    await stage.one(await stage.deploy(Wish(version=Version.BAD), before=one, keep=0))
    two = await stage.deployed(Wish(version=Version.TWO), before=one, keep=0)
    await stage.one(await stage.removal(two))
    await stage.must_be_untouched(before, web.id)
    await stage.must_stand(web)


@clause()
async def a_component_whose_name_begins_alike_is_never_touched(stage: Stage) -> None:
    """`api` is not `api-admin`."""
    longer = await stage.deployed(Wish(component="api-admin"))
    before = await stage.scene(longer.id)
    one = await stage.deployed(Wish(), keep=0)
    two = await stage.deployed(Wish(version=Version.TWO), before=one, keep=0)
    await stage.must_be_untouched(before, longer.id)
    await stage.one(await stage.removal(two))
    await stage.must_be_untouched(before, longer.id)


@clause(Power.INTRUDES)
async def what_is_not_ours_is_never_touched(stage: Stage) -> None:
    """Whatever an action does, something that is not ours goes on, whatever its name."""
    await stage.bench.intrude("api")
    before = await stage.bench.intruders()
    must(before, "the bench shows no intruder")
    one = await stage.deployed(Wish(), keep=0)
    await stage.one(await stage.deploy(Wish(version=Version.BAD), before=one, keep=0))
    two = await stage.deployed(Wish(version=Version.TWO), before=one, keep=0)
    await stage.one(await stage.removal(two))
    after = await stage.bench.intruders()
    must(after == before, f"not ours were {before}, are {after}")


@clause(Power.INTRUDES)
async def what_is_not_ours_is_never_taken_for_ours(stage: Stage) -> None:
    """Something that is not ours stands for no placement."""
    await stage.bench.intrude("api")
    seen = await stage.observe(stage.placement(Wish()))
    must(not seen.standings, f"seen as ours: {seen.standings}")


@clause(Power.ADOPTS)
async def what_runs_as_declared_can_be_adopted(stage: Stage) -> None:
    """A workload that somebody else started and that is as declared becomes ours as it is: proven, labelled, the same
    run; what comes after replaces it like any other."""
    wanted = stage.placement(Wish())
    name = await stage.bench.adoptable(wanted)
    before = await stage.bench.intruders()
    outcome = await stage.one(await stage.deploy(Wish(), adopts=name))
    must(outcome.result is Result.LABELLED and outcome.evidence, f"{outcome.result}: {outcome.detail}")
    standing = await stage.standing(asked=wanted)
    workload = standing.workload if standing else None
    must(workload and (workload.artifact, workload.configuration) == wanted.content, f"seen is {standing}")
    must(workload and any(workload.instance in one for one in before), f"{workload} is none of {before}")
    seen = await stage.observe(wanted)
    must(not any(one.name == name or one.instance == name for one in seen.unmanaged), f"still not ours: {seen}")
    again = await stage.one(await stage.deploy(Wish()))
    must(again.result is Result.UNCHANGED, f"again: {again.result}: {again.detail}")
    two = await stage.deployed(Wish(version=Version.TWO), before=wanted)
    await stage.must_stand(two)


@clause(Power.ADOPTS)
async def what_runs_otherwise_cannot_be_adopted(stage: Stage) -> None:
    """A workload that is not as declared is not taken over, and not replaced in the name of adoption."""
    name = await stage.bench.adoptable(stage.placement(Wish()))
    before = await stage.bench.intruders()
    change = await stage.deploy(Wish(version=Version.TWO), adopts=name)
    try:
        outcome = await stage.one(replace(change, replaces=None))
    except Conflict:
        must(await stage.bench.intruders() == before, "it was touched")
        must(not await stage.raw(), f"made was {await stage.raw()}")
        return
    raise AssertionError(f"answered was {outcome.result}: {outcome.detail}")
