"""Studies: one recipe, one host, several arms and seeds, one page of differences."""

from vitrail.study.run import study

__all__ = ["study"]
