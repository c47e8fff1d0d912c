#!/bin/bash
# Grades /app; the verdict is written to /logs/verifier by verify.py alone.
mkdir -p /logs/verifier
exec python3 -E -s -B /tests/verify.py
