"""Nothing to generate: the input of this task, environment/data, is written by hand (a parser with planted faults).

The faults: the last row without a line end is lost; a doubled quote vanishes; line ends in quoted fields are normalised;
a quoted empty field at the end of a line is taken for nothing; one state knows only commas; a lone CR is no row end; comments are
looked for inside quoted fields; neither error is raised, and a byte order mark is kept.
"""
