"""Hours of the day in which a run may work: `22:00-06:00`, in a time zone."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from vace_batch.errors import UsageError

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def end_of_hours(hours: str, timezone: str, now: datetime) -> datetime | None:
    """End of the hours that `now` lies in, or None outside the hours. Equal times mean the whole day.

    Raises:
        UsageError: the hours have another form, or the time zone is unknown.
    """
    match = _HOURS.fullmatch(hours)
    if match is None:
        raise UsageError(f"hours: expected HH:MM-HH:MM, got {hours!r}")
    try:
        local = now.astimezone(ZoneInfo(timezone))
    except (ZoneInfoNotFoundError, ValueError):
        raise UsageError(f"timezone: expected a name such as UTC or Europe/Berlin, got {timezone!r}") from None
    first_hour, first_minute, last_hour, last_minute = map(int, match.groups())
    for days in (0, -1):
        day = local + timedelta(days=days)  # by the wall clock: a night in which clocks change is longer or shorter
        start = day.replace(hour=first_hour, minute=first_minute, second=0, microsecond=0)
        end = day.replace(hour=last_hour, minute=last_minute, second=0, microsecond=0)
        end += timedelta(days=1) if end <= start else timedelta()
        if start <= local < end:
            return end
    return None
