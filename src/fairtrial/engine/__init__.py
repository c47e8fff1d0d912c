"""Engines: they run jobs somewhere and stream the records back. The contract is tests/engine/contract.py."""
