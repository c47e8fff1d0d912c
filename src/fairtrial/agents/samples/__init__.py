"""Training samples from runs of agents: what was said, what of it is learned, what was left out and why."""
