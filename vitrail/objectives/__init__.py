"""What a training minimises, one file each: a frozen value that builds the module.

`Objectives` is the union of all; a recipe names one, `--set objective=...` chooses it.
"""

from vitrail.objectives.binary_cross_entropy import BinaryCrossEntropy
from vitrail.objectives.cross_entropy import CrossEntropy
from vitrail.objectives.distillation import Distillation
from vitrail.objectives.sigmoid_cross_entropy import SigmoidCrossEntropy
from vitrail.objectives.summed_distillation import SummedDistillation
from vitrail.objectives.uvc import Uvc

Objectives = (
    CrossEntropy
    | BinaryCrossEntropy
    | SigmoidCrossEntropy
    | Distillation
    | SummedDistillation
    | Uvc
)
