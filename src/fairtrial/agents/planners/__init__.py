"""Planners: pure functions from a model's text to a graph of tool calls."""
