"""Training of the embedded models: data, precision, pre-training with checkpoints that resume bit for bit."""
