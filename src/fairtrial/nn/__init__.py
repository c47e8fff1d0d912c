"""The small model family: KDA, MLA with sparse attention and plain attention behind one pattern string (needs torch)."""
