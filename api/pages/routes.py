"""All pages as one router, to be mounted where people come in."""

from __future__ import annotations

from fastapi import APIRouter

from api.house import House
from api.pages import acting, assets, drift, entry, environment, fleet, jobs, live, past, shelves, targets
from api.pages.frame import desk

ROUTERS = (fleet, environment, acting, past, jobs, targets, drift, shelves, live, entry, assets)


def router(house: House) -> APIRouter:
    made, table = APIRouter(), desk(house)
    for each in ROUTERS:
        made.routes.extend(each.router(table).routes)
    return made
