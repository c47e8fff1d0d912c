"""Sandboxes: boxes that untrusted programs run in, on machines with and without a container engine."""
