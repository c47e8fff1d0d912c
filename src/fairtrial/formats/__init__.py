"""Trajectories in and out of the world's formats, with a measured account of what each conversion did."""
