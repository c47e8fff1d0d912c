"""Reports of a study result: the terminal table and one self-contained HTML file."""
