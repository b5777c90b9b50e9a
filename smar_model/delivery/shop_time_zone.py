"""The zone of times that say none: `time_zone: Europe/Berlin` in `shop.yaml` in the shop's folder, or in the settings."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from smar_model.errors import InputError
from smar_model.lake.object_paths import AnyPath
from smar_model.yaml_files import MAXIMUM_BYTES, document_of, read_yaml

SHOP_FILE = "shop.yaml"


def find_zone(root: AnyPath, setting: str | None) -> ZoneInfo | None:
    """The zone that the settings name, else the one that the shop's folder does; None: neither does.

    Raises:
        InputError: `shop.yaml` says something else, or there is no such zone.
    """
    if setting is not None:
        return zone_of(setting, "setting shop.time_zone")
    file = root / SHOP_FILE
    if not file.is_file():
        return None
    if isinstance(file, Path):
        content = read_yaml(file, advice="").content
    else:
        with file.open() as opened:
            content = document_of(opened.read(MAXIMUM_BYTES + 1), source=str(file), advice="").content
    if not isinstance(content, dict) or not isinstance(content.get("time_zone"), str):
        raise InputError(f"{file}: holds something else than `time_zone: Europe/Berlin`; write that line alone")
    if unknown := [str(key)[:40] for key in content if key != "time_zone"]:
        found = f"{file}: unknown: {', '.join(unknown)}"
        try:
            zone_of(content["time_zone"], str(file))
        except InputError as error:
            raise InputError(
                f"{found}; and {str(error).removeprefix(f'{file}: ')}; time_zone is all that it may say"
            ) from None
        raise InputError(f"{found}; time_zone is all that it may say")
    return zone_of(content["time_zone"], str(file))


def zone_of(name: str, source: str) -> ZoneInfo:
    """A zone by its name in the tz database.

    Raises:
        InputError: there is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(
            f"{source}: no time zone {name!r}; write a name of the tz database, as Europe/Berlin, or UTC"
        ) from None
