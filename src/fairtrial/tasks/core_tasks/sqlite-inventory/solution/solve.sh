#!/bin/bash
set -euo pipefail
mkdir -p /app/queries
cp /solution/queries/*.sql /app/queries/
python3 - <<'PY'
import pathlib, sqlite3
base = sqlite3.connect("file:/app/inventory.db?mode=ro", uri=True)
for path in sorted(pathlib.Path("/app/queries").glob("*.sql")):
    print(path.name, len(base.execute(path.read_text(encoding="utf-8")).fetchall()), "rows")
PY
