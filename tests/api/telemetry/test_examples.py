"""What examples/observability shows is what there is."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from api.notices import declared as notices
from api.telemetry.metrics import Metrics
from tests.harness import virtual_time
from tests.reconciler.rig import declared, rig

anyio_backend = virtual_time.backend()
EXAMPLES = Path(__file__).parents[3] / "examples" / "observability"
NAME = re.compile(r"\b(?:holdfast|release)_[a-z_]+\b")
PARTS = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}


async def scraped() -> str:
    metrics = Metrics()
    async with rig(declared("1.0.0", targets=2), sink=metrics) as made:
        await made.rested("1.0.0", 2)
        return (await metrics.text(made.store, made.reconciler, virtual_time.now() + timedelta(seconds=7))).decode()


def named(file: str) -> set[str]:
    if not file.endswith(".json"):
        return {
            found for line in re.findall(r"expr: (.*)", (EXAMPLES / file).read_text()) for found in NAME.findall(line)
        }
    panels = json.loads((EXAMPLES / file).read_text())["panels"]
    told = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return {found for line in told for found in NAME.findall(line)}


@pytest.mark.parametrize("file", ["grafana.json", "prometheus.yaml"])
async def test_every_metric_it_names_is_scraped(file: str) -> None:
    families = re.findall(r"^# TYPE (\S+) (\S+)$", await scraped(), re.MULTILINE)
    there = {name + part for name, kind in families for part in PARTS[kind]}
    assert len(named(file)) >= 4
    assert named(file) <= there


async def test_the_age_of_each_source_is_scraped() -> None:
    [age] = re.findall(r'^holdfast_source_age_seconds\{source="[a-z]+"\} (\S+)$', await scraped(), re.MULTILINE)
    assert 7 <= float(age) < 120


def test_the_file_of_notices_has_no_findings() -> None:
    assert [channel.name for channel in notices.read(EXAMPLES / "notices.yaml").channels] == ["chat", "on-call"]


def test_prometheus_sends_a_token_over_tls() -> None:
    [job] = yaml.safe_load((EXAMPLES / "prometheus.yaml").read_text())["scrape_configs"]
    assert (job["scheme"], "credentials_file" in job["authorization"]) == ("https", True)
