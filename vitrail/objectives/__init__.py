"""What a training minimises, one file each: a frozen value that builds the module.

`Objectives` is the union of all; a recipe names one, `--set objective=...` chooses it. Those of
`Unlabelled` read no labels and bring their own views: `vitrail pretrain` trains by them.
"""

from vitrail.objectives.adversarial import Adversarial, Trades
from vitrail.objectives.attmask import AttMask
from vitrail.objectives.binary_cross_entropy import BinaryCrossEntropy
from vitrail.objectives.box_loss import BoxLoss
from vitrail.objectives.contrastive import Contrastive
from vitrail.objectives.cross_entropy import CrossEntropy
from vitrail.objectives.dino import Dino
from vitrail.objectives.distillation import Distillation
from vitrail.objectives.focal_lovasz import FocalLovasz
from vitrail.objectives.ibot import Ibot
from vitrail.objectives.mae import Mae
from vitrail.objectives.mil_nce import MilNce
from vitrail.objectives.pixel_cross_entropy import PixelCrossEntropy
from vitrail.objectives.query_loss import QueryLoss
from vitrail.objectives.sigmoid_cross_entropy import SigmoidCrossEntropy
from vitrail.objectives.sit import Sit
from vitrail.objectives.summed_distillation import SummedDistillation
from vitrail.objectives.switching import Switching
from vitrail.objectives.uvc import Uvc

Unlabelled = Sit | AttMask | Dino | Ibot | Mae
Objectives = (
    CrossEntropy | BinaryCrossEntropy | SigmoidCrossEntropy | PixelCrossEntropy | BoxLoss
    | FocalLovasz | Distillation | SummedDistillation | Uvc | Switching | Adversarial | Trades
    | Sit | AttMask | Dino | Ibot | Mae | Contrastive | MilNce | QueryLoss
)  # fmt: skip
