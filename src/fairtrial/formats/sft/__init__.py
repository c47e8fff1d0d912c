"""Training files for published agent harnesses, and rows for reinforcement learning."""
