"""Skills as a controlled difference between arms: what is shown, how it is disclosed, and what was really read."""
