"""Studies: one recipe, one host, several arms and seeds, one page of differences."""

from vitrail.study.run import Asked, resume, study

__all__ = ["Asked", "resume", "study"]
