"""Core: the nouns every room shares. Imports pydantic and the standard library only."""
