#!/bin/bash
set -euo pipefail
cp /solution/lru.py /solution/memo.py /app/minicache/
cd /app && python3 -m unittest discover -q -s tests
