"""Plain hosts and engines, as the tests of their drivers have them."""

from __future__ import annotations

from tests.drivers.docker.conftest import engine, registry, stocked, without_traffic
from tests.drivers.docker.conftest import yard as docker_yard
from tests.drivers.process.conftest import images, root

__all__ = ["docker_yard", "engine", "images", "registry", "root", "stocked", "without_traffic"]
