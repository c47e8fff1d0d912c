"""Makes environment/data/inventory.db, with the same rows that the verifier draws for its first database.

Not part of the environment: run it by hand after a change, `python3 generate.py`; the same rows come out each time (the bytes
of the file depend on the version of SQLite).
"""

import sqlite3
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE / "tests"))

import fill  # noqa: E402

SEED = 20260630


def main():
    path = HERE / "environment/data/inventory.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    base = sqlite3.connect(path)
    base.execute("PRAGMA page_size = 512")
    base.executescript(fill.SCHEMA)
    for table, rows in fill.inventory(SEED).items():
        base.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows)
    base.commit()
    base.execute("VACUUM")
    base.close()


if __name__ == "__main__":
    main()
