"""The data sets of the Agent Data Protocol paper (arXiv 2510.24702, table 1) and others: raw rows to trajectories."""
