"""Plain hosts and engines, as the tests of their drivers have them."""

from __future__ import annotations

from tests.drivers.docker.conftest import engine, registry, stocked, without_traffic, yard
from tests.drivers.process.conftest import images, root

__all__ = ["engine", "images", "registry", "root", "stocked", "without_traffic", "yard"]
