"""Building blocks that two or more papers share; they know torch and nothing of vitrail."""
