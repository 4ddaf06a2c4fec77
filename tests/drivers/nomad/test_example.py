"""The example that the package shows is one that can be loaded and rendered."""

from __future__ import annotations

import textwrap

import yaml

import drivers.nomad
from drivers.nomad import render
from drivers.nomad.connection import Connection
from tests.drivers.nomad import hcl
from tests.drivers.nomad.samples import origin, placement


def _blocks() -> list[str]:
    """What is indented after two colons."""
    blocks, text = [], drivers.nomad.__doc__ or ""
    for piece in text.split("::\n\n")[1:]:
        lines = piece.splitlines()
        end = next((at for at, line in enumerate(lines) if line and not line.startswith("    ")), len(lines))
        blocks.append(textwrap.dedent("\n".join(lines[:end])))
    return blocks


def test_the_connection_is_one() -> None:
    connection = Connection.model_validate(yaml.safe_load(_blocks()[0])["connection"])
    assert connection.job == "shop"
    assert sorted(connection.places) == ["api", "worker"]


def test_the_job_holds_its_components() -> None:
    connection = Connection.model_validate(yaml.safe_load(_blocks()[0])["connection"])
    job = hcl.parsed(_blocks()[1])
    there = render.outline(
        job, job=connection.job, namespace=connection.namespace, region=connection.region, places=connection.places
    )
    made = render.with_components(there, [placement("api"), placement("worker")], origin(), None)
    assert [group["Name"] for group in made["TaskGroups"]] == ["front", "back"]


def test_the_policy_names_every_capability_that_is_asked_for() -> None:
    from drivers.nomad import cluster

    needed = (cluster.READ_JOB, cluster.SUBMIT_JOB, cluster.PARSE_JOB, cluster.LIFECYCLE, cluster.READ_LOGS)
    assert all(f'"{capability}"' in _blocks()[2] for capability in needed)
