"""Studies: arms x tasks x repeats, paired by construction, from a file to a verdict. Knows no kind of trial by name."""
