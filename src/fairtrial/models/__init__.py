"""Whatever answers: one protocol over the native family, Hugging Face models, endpoints and scripts."""
