"""Worlds: question-and-tool tasks that need no box, generated or read from real text."""
