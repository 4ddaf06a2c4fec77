"""What is mounted over TCP besides the API, and who stands at that door: the one place where the parts meet."""

from __future__ import annotations

from typing import Final

from api.house import House
from api.http import webhooks
from api.http.app import Router
from api.people import routes
from api.people.doorkeeper import Doorkeeper

MORE: Final[tuple[Router, ...]] = (routes.router, webhooks.router)  # routers of people, pages and webhooks


def doorkeeper(house: House) -> Doorkeeper:
    return Doorkeeper(house)
