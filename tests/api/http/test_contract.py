"""The OpenAPI document and the server agree: schemathesis asks what it allows, and what it does not.

Its pytest plugin is not needed: it is used as a library, so every other module runs without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from threading import Event, Thread
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, Phase, Verbosity, given, settings

from api.http.app import gated
from api.http.caps import Caps
from api.http.serving import on_port
from tests.api.http.doors import opened
from tests.reconciler.rig import declared, rig

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    schemathesis = pytest.importorskip("schemathesis")
    from schemathesis.checks import not_a_server_error
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

pytestmark = pytest.mark.filterwarnings("ignore")  # of schemathesis and what it stands on

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 6  # of each operation and mode
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    verbosity=Verbosity.quiet,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)


class Served:
    """The application at a real port, on a thread of its own."""

    def __init__(self) -> None:
        self.url = ""
        self._listens, self._stop = Event(), Event()
        self._thread = Thread(target=lambda: anyio.run(self._serve), daemon=True)

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._listens.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    async def _serve(self) -> None:
        async with rig(declared("1.0.0", targets=2)) as made, opened(made, Caps()) as door:
            server = on_port(gated(door.app, Caps()), "127.0.0.1", 0)
            async with anyio.create_task_group() as group:
                port = await group.start(server.run_until_stopped)
                with anyio.move_on_after(10):
                    while not (await made.jobs() and (await made.jobs())[0].ended_at):  # noqa: ASYNC110
                        await anyio.sleep(0.1)
                self.url = f"http://127.0.0.1:{port}"
                self._listens.set()
                await anyio.to_thread.run_sync(self._stop.wait)
                door.house.bell.close()
                server.should_exit = True


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    with ExitStack() as stack:
        yield stack.enter_context(Served()).url


@pytest.fixture(scope="module")
def schema(served: str) -> Any:
    return schemathesis.openapi.from_url(f"{served}/api/v1/openapi.json")


def operations(schema: Any) -> list[Any]:
    """Those that end by themselves."""
    found = [each.ok() for each in schema.get_all_operations()]
    return [each for each in found if not each.path.endswith(("/events", "/stream"))]


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_every_operation_answers_as_it_says(schema: Any, served: str, mode: str) -> None:
    asked = 0
    for operation in operations(schema):
        try:
            cases = operation.as_strategy(generation_mode=GenerationMode[mode])
            cases.validate()
        except Exception:  # nothing of it can be wrong, so nothing is made up
            continue

        @BOUNDED
        @given(case=cases)
        def ask(case: Any) -> None:
            nonlocal asked
            asked += 1
            headers = {"Authorization": "Bearer owner"}
            case.validate_response(case.call(base_url=served, headers=headers, timeout=30), checks=CHECKS)

        ask()
    assert asked > 100


def test_the_document_names_every_problem_and_verb(schema: Any) -> None:
    document = schema.raw_schema
    assert document["openapi"].startswith("3.")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation["x-holdfast-verb"], where
            assert operation["responses"]["403"]["content"].keys() == {"application/problem+json"}, where
            repeats = method == "post" and bool({"acts", "jobs"} & set(operation["tags"]))
            assert ("Idempotency-Key" in str(operation.get("parameters"))) == repeats, where
            assert operation.get("description"), where
