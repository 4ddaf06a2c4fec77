"""What is mounted over TCP besides the API, and who stands at that door: the one place where the parts meet."""

from __future__ import annotations

from typing import Final

from api.house import House
from api.http.app import Router
from api.http.guard import Doorkeeper, NobodyKnown
from api.pages import routes as pages

MORE: Final[tuple[Router, ...]] = (pages.router, pages.lost)  # `lost` answers what no other does, so it is the last


def doorkeeper(house: House) -> Doorkeeper:
    return NobodyKnown()
