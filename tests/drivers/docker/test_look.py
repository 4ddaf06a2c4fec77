"""Containers read as placements: who serves, what is kept, what is left over, and what is not ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from drivers.docker import look, render
from drivers.docker.look import Listed
from stickers import codec
from stickers.names import ComponentName, Digest, InstallationId, PlacementId
from stickers.observation import HealthState, WorkloadState
from stickers.signature import Envelope
from tests.drivers.docker.samples import ARTIFACT, ID, INSTALLATION, container, image, placement

ALIASED = {"NetworkSettings": {"Networks": {"shop": {"Aliases": ["api"]}}}}
NAMELESS: dict[str, Any] = {"NetworkSettings": {"Networks": {"shop": {"Aliases": []}}}}
RECORD = {render.SPECIFICATION: '{"networks":{"shop":"api"}}'}


def made(
    id: str, sequence: int, state: str = "running", labels: Mapping[str, str] | None = None, *, of: PlacementId = ID
) -> Listed:
    own = render.placement_labels(INSTALLATION, of) | {render.ROLE: render.WORKLOAD, render.SEQUENCE: str(sequence)}
    own |= {render.ARTIFACT: f"artifact of {id}", render.CONFIGURATION: f"configuration of {id}"} | RECORD
    return listed(id, state, own | dict(labels or {}))


def holder(sequence: int, phase: str, instance: str, labels: Mapping[str, str] | None = None) -> Listed:
    own = {render.ROLE: render.STICKER, render.PHASE: phase, render.INSTANCE: instance}
    return made(f"holder-{sequence}", sequence, "created", own | dict(labels or {}))


def listed(id: str, state: str, labels: Mapping[str, str]) -> Listed:
    return Listed(id=id, name=f"name-of-{id}", labels=labels, state=state, image="", image_id="sha256:i", mark=())


def serves(*containers: Listed, nameless: Sequence[str] = ()) -> str | None:
    group = look.group(ID, containers)
    inspected = {one.id: NAMELESS if one.id in nameless else ALIASED for one in look.candidates(group)}
    found = look.serving(group, inspected)
    return found.id if found else None


class TestWhoServes:
    def test_in_transit_it_is_what_stood_before(self) -> None:
        assert serves(made("old", 1, "exited"), made("new", 3), holder(2, "in_transit", "old")) == "old"
        assert serves(made("old", 1), made("new", 3), holder(2, "in_transit", "old"), nameless=["old"]) == "old"

    def test_in_transit_where_nothing_stood_it_is_nothing(self) -> None:
        assert serves(made("new", 3), holder(2, "in_transit", "")) is None

    def test_in_transit_when_what_stood_is_gone_it_is_what_runs(self) -> None:
        assert serves(made("new", 3), holder(2, "in_transit", "old")) == "new"
        assert serves(made("new", 3, "exited"), holder(2, "in_transit", "old")) is None

    def test_proven_it_is_the_one_that_was_proven(self) -> None:
        assert serves(made("kept", 1), made("own", 3), holder(4, "proven", "own"), nameless=["own"]) == "own"

    def test_proven_and_stopped_it_is_that_one_stopped(self) -> None:
        assert serves(made("kept", 1, "exited"), made("own", 3, "exited"), holder(4, "proven", "own")) == "own"

    def test_proven_and_gone_what_is_kept_does_not_serve(self) -> None:
        assert serves(made("kept", 1, "exited"), holder(4, "proven", "own")) is None

    def test_another_that_was_started_in_its_place_serves(self) -> None:
        assert serves(made("kept", 1), made("own", 3, "exited"), holder(4, "proven", "own")) == "kept"

    def test_of_two_that_run_it_is_the_one_that_answers_to_the_name(self) -> None:
        assert serves(made("one", 1), made("two", 2), nameless=["one"]) == "two"

    def test_of_two_that_answer_it_is_the_older(self) -> None:
        assert serves(made("one", 1), made("two", 2)) == "one"

    def test_without_a_sticker_it_is_what_runs_and_else_the_newest_that_ever_did(self) -> None:
        assert serves(made("one", 1), made("two", 2, "exited")) == "one"
        assert serves(made("one", 1, "exited"), made("two", 2, "exited"), made("three", 3, "created")) == "two"
        assert serves(made("one", 1, "created")) == "one"

    def test_the_highest_sequence_speaks(self) -> None:
        containers = made("old", 1), made("new", 3), holder(4, "in_transit", "old"), holder(5, "proven", "new")
        assert serves(*containers) == "new"

    def test_nothing_is_nothing(self) -> None:
        assert serves(holder(1, "proven", "gone")) is None
        assert serves() is None


class TestGroups:
    def test_labels_and_nothing_else_make_a_container_ours(self) -> None:
        ours, other = made("ours", 1), made("other", 1)
        foreign = listed("theirs", "running", dict(other.labels) | {render.INSTALLATION: "another"})
        named_alike = listed("alike", "running", {render.COMPONENT: "api", render.TARGET: "shop/web-1"})
        found = look.groups([ours, foreign, named_alike], INSTALLATION)
        assert [one.id for one in found[ID].workloads] == ["ours"]

    def test_a_name_that_begins_alike_is_another_placement(self) -> None:
        longer = PlacementId(ID.target, ComponentName("api-admin"))
        found = look.groups([made("one", 1), made("two", 1, of=longer)], INSTALLATION)
        assert {id: [one.id for one in group.workloads] for id, group in found.items()} == {
            ID: ["one"],
            longer: ["two"],
        }

    def test_an_adopted_container_belongs_where_the_holder_names_it(self) -> None:
        adopting = holder(2, "proven", "by-hand", {render.ADOPTED: "true"})
        by_hand = listed("by-hand", "running", {})
        group = look.groups([by_hand, adopting], INSTALLATION)[ID]
        assert [one.id for one in group.workloads] == ["by-hand"]
        assert look.record_of(by_hand, group) is adopting.labels

    def test_a_holder_that_adopted_nothing_takes_nobody_in(self) -> None:
        group = look.groups([listed("by-hand", "running", {}), holder(2, "proven", "by-hand")], INSTALLATION)[ID]
        assert group.workloads == ()

    def test_labels_nobody_could_have_written_are_left_alone(self) -> None:
        odd = made("odd", 1, labels={render.TARGET: "../etc"})
        assert look.groups([odd], INSTALLATION) == {}

    def test_the_fence_is_the_highest_recorded(self) -> None:
        group = look.group(
            ID, [made("one", 1, labels={render.FENCE: "7"}), holder(2, "proven", "one", {render.FENCE: "9"})]
        )
        assert group.fence == 9

    @pytest.mark.parametrize("text", ["", "-1", "1e3", "٣", "9" * 40])
    def test_a_number_nobody_could_have_written_counts_as_none(self, text: str) -> None:
        assert made("one", 1, labels={render.FENCE: text}).fence == 0


class TestStanding:
    def test_predecessors_are_kept_newest_first_and_the_rest_is_debris(self) -> None:
        containers = [made("a", 1, "exited"), made("b", 2, "exited"), made("own", 5)]
        debris = [made("c", 7, "exited"), made("d", 4, "created"), made("e", 3)]
        group = look.group(ID, [*containers, *debris, holder(6, "proven", "own"), holder(2, "proven", "b")])
        found = look.standing(group, look.workload(container(placement()) | {"Id": "own"}, image(), {}))
        assert [artifact for artifact, _ in found.kept] == ["artifact of b", "artifact of a"]
        assert found.debris == ("name-of-c", "name-of-d", "name-of-e", "name-of-holder-2")

    def test_a_sticker_of_another_format_is_a_problem(self) -> None:
        odd = holder(1, "proven", "", {codec.LABEL_FORMAT: "tomorrow/v9", codec.LABEL: "x"})
        found = look.standing(look.group(ID, [odd]), None).worn
        assert found is not None
        assert found.envelope is None
        assert "tomorrow/v9" in (found.problem or "")

    def test_a_sticker_is_shown_as_it_is_worn(self) -> None:
        worn = holder(1, "proven", "", codec.to_labels(Envelope('{"signed":"so"}')))
        found = look.standing(look.group(ID, [worn]), None).worn
        assert found is not None
        assert found.envelope == '{"signed":"so"}'


class TestKept:
    def test_the_newest_stay_and_what_never_served_goes(self) -> None:
        workloads = [made(name, number, "exited") for number, name in enumerate("abc", start=1)]
        group = look.group(ID, [*workloads, made("failed", 4, "exited"), made("never", 3, "created"), made("own", 5)])
        assert [one.id for one in look.kept(group, "own", since=3, good=None, keep=2)] == ["c", "b"]

    def test_last_good_stays_beyond_the_number(self) -> None:
        workloads = [made(name, number, "exited") for number, name in enumerate("abc", start=1)]
        group = look.group(ID, [*workloads, made("own", 5)])
        good = workloads[0].content
        assert [one.id for one in look.kept(group, "own", since=3, good=good, keep=1)] == ["c", "a"]
        assert [one.id for one in look.kept(group, "own", since=3, good=good, keep=0)] == ["a"]


class TestWorkload:
    def test_what_agrees_with_its_record_has_its_configuration(self) -> None:
        wanted = placement()
        found = look.workload(container(wanted), image(), render.record(wanted))
        assert (found.artifact, found.configuration) == wanted.content
        assert found.differences == ()
        assert found.started_at == datetime(2026, 11, 21, 10, 0, 0, 123456, tzinfo=UTC)

    def test_what_differs_has_none_and_says_how(self) -> None:
        wanted = placement()
        changed = container(wanted)
        changed["HostConfig"]["Memory"] = 1
        found = look.workload(changed, image(), render.record(wanted))
        assert found.configuration is None
        assert found.artifact == ARTIFACT.digest
        assert found.differences == ("memory: found 1, wanted 67108864",)

    def test_what_nothing_is_recorded_of_has_none(self) -> None:
        found = look.workload(container(placement()), image(), {})
        assert found.configuration is None
        assert found.differences

    def test_a_container_made_by_tag_is_what_its_image_is_known_by(self) -> None:
        by_tag = container(placement())
        by_tag["Config"]["Image"] = "shop/api:latest"
        other = Digest("sha256:" + "2" * 64)
        assert look.artifact(by_tag, image(), "") == ARTIFACT.digest
        assert look.artifact(by_tag, {"RepoDigests": [f"a@{other}", str(ARTIFACT)]}, ARTIFACT.digest) == ARTIFACT.digest
        assert look.artifact(by_tag, {"RepoDigests": [f"a@{other}", str(ARTIFACT)]}, "sha256:else") is None
        assert look.artifact(by_tag, None, ARTIFACT.digest) is None

    @pytest.mark.parametrize(
        ("state", "meant"),
        [
            ({"Running": True}, WorkloadState.RUNNING),
            ({"Running": True, "Health": {"Status": "starting"}}, WorkloadState.STARTING),
            ({"Running": True, "Restarting": True}, WorkloadState.RESTARTING),
            ({"Running": True, "Paused": True}, WorkloadState.STOPPED),
            ({"Running": False, "ExitCode": 3}, WorkloadState.STOPPED),
        ],
    )
    def test_the_engines_state_is_read(self, state: dict[str, Any], meant: WorkloadState) -> None:
        found = look.workload(container(placement()) | {"State": state}, image(), {})
        assert found.state is meant
        assert found.exit_code == (3 if state.get("ExitCode") else None)

    @pytest.mark.parametrize(
        ("status", "meant"),
        [
            ("healthy", HealthState.HEALTHY),
            ("unhealthy", HealthState.UNHEALTHY),
            ("starting", HealthState.UNKNOWN),
            ("none", None),
        ],
    )
    def test_the_containers_own_check_is_read(self, status: str, meant: HealthState | None) -> None:
        found = look.runtime_health({"Health": {"Status": status}})
        assert (found.state if found else None) is meant

    def test_a_container_that_never_started_has_no_start(self) -> None:
        assert look.moment("0001-01-01T00:00:00Z") is None
        assert look.moment("2026-11-21T10:00:00Z") == datetime(2026, 11, 21, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "steady"),
    [
        ("Up 3 minutes", "Up"),
        ("Up Less than a second (health: starting)", "Up (health: starting)"),
        ("Up 2 hours (healthy)", "Up (healthy)"),
        ("Up About a minute (Paused)", "Up (Paused)"),
        ("Exited (137) 4 weeks ago", "Exited (137)"),
        ("Restarting (1) 5 seconds ago", "Restarting (1)"),
        ("Created", "Created"),
        ("Removal In Progress", "Removal In Progress"),
    ],
)
def test_a_status_is_read_without_its_age(status: str, steady: str) -> None:
    assert look.steady(status) == steady


def test_an_endpoint_that_was_made_anew_is_a_mark() -> None:
    entry: dict[str, Any] = {"Id": "1", "State": "running", "Status": "Up 1 second"}
    before = look.listed(entry | {"NetworkSettings": {"Networks": {"shop": {"EndpointID": "a"}}}})
    after = look.listed(entry | {"NetworkSettings": {"Networks": {"shop": {"EndpointID": "b"}}}})
    aged = look.listed(entry | {"Status": "Up 2 days", "NetworkSettings": {"Networks": {"shop": {"EndpointID": "a"}}}})
    assert before.mark != after.mark
    assert before.mark == aged.mark


def test_what_is_not_ours_is_shown_with_the_digests_it_is_known_by() -> None:
    found = look.unmanaged(listed("theirs", "running", {}), image())
    assert (found.name, found.instance, found.digests) == ("name-of-theirs", "theirs", (ARTIFACT.digest,))
    assert look.groups([listed("theirs", "running", {})], InstallationId("any")) == {}
