"""Causal language models of transformers, from a local folder or, where the network allows, the hub."""
