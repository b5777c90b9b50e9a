from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from smar_model.delivery.times import NoZoneError, parse_time

NINE = datetime(2026, 11, 19, 9, 18, 26, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-19T09:18:26Z",
        "2026-11-19 09:18:26 UTC",
        "2026-11-19 09:18:26.000000 UTC",
        " 2026-11-19 09:18:26 GMT ",
        "2026-11-19 11:18:26 +0200",
        "2026-11-19 11:18:26 +02:00",
        "2026-11-19 11:18:26+02",
        "2026-11-19T09:18:26.0000001Z",
        "20261119T091826Z",
        "2026-11-19T09:18:26",
    ],
)
def test_one_moment_in_the_ways_that_systems_write_it(text):
    assert parse_time(text) == NINE
    assert parse_time(text).tzinfo is UTC


def test_parts_of_a_second_and_days_alone():
    assert parse_time("2026-11-19 09:18:26.5 UTC").microsecond == 500_000
    assert parse_time("2026-11-19") == datetime(2026, 11, 19, tzinfo=UTC)
    assert parse_time("20261119") == datetime(2026, 11, 19, tzinfo=UTC)


def test_a_text_without_a_zone_is_of_the_zone_that_is_given():
    berlin = ZoneInfo("Europe/Berlin")
    assert parse_time("2026-11-19 10:18:26", zone=berlin) == NINE
    assert parse_time("2026-11-19 09:18:26 UTC", zone=berlin) == NINE
    with pytest.raises(NoZoneError, match="says no zone"):
        parse_time("2026-11-19 10:18:26", zone=None)
    assert parse_time("2026-11-19 09:18:26 UTC", zone=None) == NINE


def test_formats_of_a_shop():
    assert parse_time("19.11.2026 09:18:26", format="%d.%m.%Y %H:%M:%S") == NINE
    assert parse_time("19/Nov/2026:10:18:26 +0100", format="%d/%b/%Y:%H:%M:%S %z", zone=None) == NINE
    with pytest.raises(ValueError, match="does not match format"):
        parse_time("2026-11-19", format="%d.%m.%Y")


@pytest.mark.parametrize(
    "text", ["", "soon", "1795010120000", "1795080000", "2026-02-30", "0001-01-01T00:00+14:00", "2026-11-19 UTC+2", "١"]
)
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match=r"."):
        parse_time(text)
