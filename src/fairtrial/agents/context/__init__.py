"""Context policies: pure functions from the log of a run to the prompt of its next turn."""
