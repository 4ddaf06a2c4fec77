"""Imports while the collector sleeps: nothing of what is imported is garbage, and it would look all of it through."""

from __future__ import annotations

import gc
from importlib import import_module
from types import ModuleType


def imported(module: str) -> ModuleType:
    awake = gc.isenabled()
    gc.disable()
    try:
        return import_module(module)
    finally:
        if awake:
            gc.enable()
