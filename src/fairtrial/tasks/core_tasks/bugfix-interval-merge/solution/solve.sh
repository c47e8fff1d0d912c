#!/bin/bash
set -euo pipefail
cp /solution/algebra.py /app/spans/algebra.py
cd /app && python3 -m unittest discover -q -s tests
