"""What a training minimises, one file each: a frozen value that builds the module.

`Objectives` is the union of all; a recipe names one, `--set objective=...` chooses it.
"""

from vitrail.objectives.binary_cross_entropy import BinaryCrossEntropy
from vitrail.objectives.cross_entropy import CrossEntropy

Objectives = CrossEntropy | BinaryCrossEntropy
