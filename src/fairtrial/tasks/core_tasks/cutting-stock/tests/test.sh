#!/bin/sh
# Judges what is in /app. Isolated mode: nothing that the agent left can be imported.
exec python3 -I -B /tests/verify.py
