"""Plain hosts and engines, as the tests of their drivers have them."""

from __future__ import annotations

from tests.drivers.process.conftest import images, root

__all__ = ["images", "root"]
