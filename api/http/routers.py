"""What is mounted over TCP besides the API, and who stands at that door: the one place where the parts meet."""

from __future__ import annotations

from typing import Final

from api.house import House
from api.http import webhooks
from api.http.app import Router
from api.pages import routes as pages
from api.people import routes as people
from api.people.doorkeeper import Doorkeeper

# of people, webhooks and pages; `lost` answers what no other does, so it is the last
MORE: Final[tuple[Router, ...]] = (people.router, webhooks.router, pages.router, pages.lost)


def doorkeeper(house: House) -> Doorkeeper:
    return Doorkeeper(house)
