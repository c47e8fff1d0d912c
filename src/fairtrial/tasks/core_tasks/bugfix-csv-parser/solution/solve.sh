#!/bin/sh
set -eu
cp "$(dirname "$0")/csvstate.py" /app/csvstate.py
cd /app && python3 -B test_csvstate.py
