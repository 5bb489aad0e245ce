"""Whole jobs, one file each: what `import vitrail` promises, and the command line calls."""
