"""Agents: what acts on a task, and the kind of trial that runs one."""
