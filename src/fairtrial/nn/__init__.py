"""The small model family: KDA, MLA, sparse and plain attention behind one pattern string (needs torch)."""
