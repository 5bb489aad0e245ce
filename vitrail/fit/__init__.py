"""The main job: a folder of images in; the best model within the budget, and a report, out."""

from vitrail.fit.fit import fit

__all__ = ["fit"]
