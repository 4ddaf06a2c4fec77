"""Differences are told in words, and only where there are some."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

from hypothesis import given

from stickers import names
from stickers.mismatch import differences
from tests.stickers.made import sticker, stickers


@given(stickers)
def test_equal_records_do_not_differ(one: object) -> None:
    assert differences(one, one) == ()


def test_a_changed_field_is_told_with_its_path() -> None:
    found = sticker()
    wanted = replace(found, claim=replace(found.claim, release=names.release_name("shop@2.4.0")))
    assert differences(wanted, found) == ("claim.release: found 'shop@2.3.1', wanted 'shop@2.4.0'",)


def test_all_differences_are_told_in_order() -> None:
    wanted = {"ports": {"http": 80}, "user": "web", "same": 1}
    found = {"ports": {"http": 8080}, "extra": True, "same": 1}
    assert differences(wanted, found) == (
        "extra: found True, wanted nothing",
        "ports.http: found 8080, wanted 80",
        "user: found nothing, wanted 'web'",
    )


def test_lists_are_compared_by_position() -> None:
    assert differences(["a", "b"], ["a", "c", "d"]) == ("1: found 'c', wanted 'b'", "2: found 'd', wanted nothing")


def test_a_difference_of_kind_is_told() -> None:
    assert differences({"memory": 1}, {"memory": "1"}) == ("memory: found '1', wanted 1",)


def test_two_values_without_fields_are_told_as_the_value() -> None:
    assert differences("a", "b") == ("value: found 'b', wanted 'a'",)


def test_long_values_are_cut() -> None:
    (sentence,) = differences({"a": "x" * 1000}, {"a": "y" * 1000})
    assert len(sentence) < 200


def test_control_characters_do_not_reach_the_terminal() -> None:
    (sentence,) = differences({"a": "x"}, {"a": "\x1b[31m\u202e"})
    assert sentence.isprintable()


def test_nothing_heavy_is_imported_until_something_differs() -> None:
    program = (
        "import sys; from stickers.mismatch import differences; differences(1, 1); print('deepdiff' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
