"""Makes the input of this task: `python3 generate.py [FOLDER]` writes environment/data and tests/data below FOLDER.

Needs a time-zone database (Python's zoneinfo), which the task itself does not. The files are committed; running this is not
needed to run the task.
"""

import csv
import shutil
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

ZONES = ["America/Los_Angeles", "America/New_York", "America/Sao_Paulo", "Asia/Kathmandu", "Asia/Tokyo", "Australia/Lord_Howe",
         "Australia/Sydney", "Europe/Berlin", "Europe/London", "Africa/Cairo"]

PEOPLE = [
    ("Anneke Vos", "Europe/Berlin", "Mon Tue Wed Thu Fri", "09:00", "17:30", "2026-04-03 2026-04-06"),
    ("Bill Tran", "America/New_York", "Mon Tue Wed Thu Fri", "08:30", "17:00", ""),
    ("Chandra Rai", "Asia/Kathmandu", "Sun Mon Tue Wed Thu Fri", "10:00", "18:15", "2026-03-20"),
    ("Dana Cole", "America/Los_Angeles", "Mon Tue Wed Thu Fri", "07:00", "15:00", ""),
    ("Emre Ford", "Australia/Sydney", "Mon Tue Wed Thu Fri", "21:00", "05:30", "2026-04-03"),
    ("Fumiko Abe", "Asia/Tokyo", "Mon Tue Wed Thu Fri", "09:30", "18:30", "2026-03-20"),
    ("Gwen Price", "Europe/London", "Tue Wed Thu Fri Sat", "10:00", "18:00", ""),
    ("Hany Saleh", "Africa/Cairo", "Sun Mon Tue Wed Thu", "09:00", "17:00", "2026-04-26"),
    ("Iris Quade", "Australia/Lord_Howe", "Mon Tue Wed Thu Fri", "08:00", "16:00", ""),
    ("Joao Melo", "America/Sao_Paulo", "Mon Tue Wed Thu Fri", "09:00", "18:00", "2026-04-21"),
]

BUSY = [
    ("Anneke Vos", "2026-03-02T14:00", "2026-03-02T15:00", "Europe/Berlin", "weekly", "2026-06-30"),
    ("Anneke Vos", "2026-03-31T15:00", "2026-03-31T16:30", "Europe/Berlin", "", ""),
    ("Anneke Vos", "2026-03-10T08:00", "2026-03-10T11:30", "America/New_York", "", ""),
    ("Bill Tran", "2026-03-02T09:00", "2026-03-02T10:15", "America/New_York", "weekly", "2026-04-30"),
    ("Bill Tran", "2026-03-03T10:30", "2026-03-03T12:00", "America/New_York", "weekly", "2026-03-24"),
    ("Chandra Rai", "2026-03-05T14:30", "2026-03-05T16:00", "Asia/Kathmandu", "weekly", "2026-12-31"),
    ("Dana Cole", "2026-03-09T07:00", "2026-03-09T08:30", "America/Los_Angeles", "weekly", "2026-05-29"),
    ("Dana Cole", "2026-11-01T01:30", "2026-11-01T02:30", "America/Los_Angeles", "", ""),
    ("Emre Ford", "2026-04-05T02:30", "2026-04-05T04:00", "Australia/Sydney", "", ""),
    ("Emre Ford", "2026-03-30T21:00", "2026-03-30T23:00", "Australia/Sydney", "weekly", "2026-04-27"),
    ("Fumiko Abe", "2026-03-25T16:00", "2026-03-25T18:30", "Asia/Tokyo", "", ""),
    ("Gwen Price", "2026-03-28T10:00", "2026-03-28T13:00", "Europe/London", "weekly", "2026-04-18"),
    ("Gwen Price", "2026-03-29T01:15", "2026-03-29T03:00", "Europe/London", "", ""),
    ("Hany Saleh", "2026-04-19T09:00", "2026-04-19T11:00", "Africa/Cairo", "weekly", "2026-05-17"),
    ("Iris Quade", "2026-03-30T08:00", "2026-03-30T09:00", "Australia/Lord_Howe", "weekly", "2026-05-30"),
    ("Joao Melo", "2026-03-26T11:00", "2026-03-26T12:30", "Europe/Berlin", "weekly", "2026-04-16"),
]

REQUESTS = [
    ("standup", "Anneke Vos;Bill Tran", 45, "2026-03-16T00:00Z", "2026-03-20T23:59Z"),
    ("roadmap", "Anneke Vos;Bill Tran;Gwen Price", 60, "2026-03-31T00:00Z", "2026-04-02T23:59Z"),
    ("handover", "Anneke Vos;Chandra Rai;Fumiko Abe", 30, "2026-03-30T00:00Z", "2026-04-03T23:59Z"),
    ("pairing", "Emre Ford;Anneke Vos", 90, "2026-03-30T10:00Z", "2026-04-10T23:59Z"),
    ("incident", "Emre Ford;Bill Tran", 60, "2026-04-06T10:00Z", "2026-04-07T23:59Z"),
    ("budget", "Dana Cole;Gwen Price", 120, "2026-03-09T00:00Z", "2026-03-14T23:59Z"),
    ("review", "Hany Saleh;Anneke Vos;Joao Melo", 60, "2026-04-24T08:00Z", "2026-04-30T23:59Z"),
    ("island", "Iris Quade;Fumiko Abe", 75, "2026-04-05T00:00Z", "2026-04-10T23:59Z"),
    ("global", "Dana Cole;Fumiko Abe;Gwen Price", 30, "2026-03-23T00:00Z", "2026-03-27T23:59Z"),
    ("weekend", "Gwen Price;Hany Saleh", 60, "2026-03-28T00:00Z", "2026-03-30T23:59Z"),
    ("atlantic", "Joao Melo;Bill Tran;Anneke Vos", 30, "2026-03-26T10:00Z", "2026-03-27T23:59Z"),
    ("quarter", "Chandra Rai;Gwen Price", 45, "2026-04-02T08:30Z", "2026-04-08T23:59Z"),
]


def transitions(zone):
    """(instant, offset) from 2025-12-01 to 2026-12-31, found by halving."""
    info = ZoneInfo(zone)
    moment, end = datetime(2025, 12, 1, tzinfo=timezone.utc), datetime(2027, 1, 1, tzinfo=timezone.utc)
    offset = moment.astimezone(info).utcoffset()
    found = [(moment, offset)]
    while moment < end:
        later = moment + timedelta(days=1)
        if later.astimezone(info).utcoffset() != offset:
            low, high = moment, later
            while high - low > timedelta(minutes=1):
                middle = low + (high - low) // 2
                middle = middle.replace(second=0, microsecond=0)
                if middle.astimezone(info).utcoffset() == offset:
                    low = middle
                else:
                    high = middle
            offset = later.astimezone(info).utcoffset()
            found.append((high, offset))
        moment = later
    return found


def sign(offset):
    minutes = int(offset.total_seconds()) // 60
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def write(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def main(root):
    data = root / "environment" / "data"
    data.mkdir(parents=True, exist_ok=True)
    rows = [(zone, moment.strftime("%Y-%m-%dT%H:%MZ"), sign(offset)) for zone in sorted(ZONES) for moment, offset in transitions(zone)]
    write(data / "zones.csv", ("zone", "from_utc", "offset"), rows)
    write(data / "people.csv", ("name", "zone", "days", "start", "end", "days_off"), PEOPLE)
    write(data / "busy.csv", ("name", "start", "end", "zone", "repeat", "until"), BUSY)
    write(data / "requests.csv", ("id", "participants", "minutes", "not_before", "not_after"), REQUESTS)
    shutil.rmtree(root / "tests" / "data", ignore_errors=True)
    shutil.copytree(data, root / "tests" / "data")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
