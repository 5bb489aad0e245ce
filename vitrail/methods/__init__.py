"""Ways to change a finished model from outside, one file each: frozen values with `apply`.

`Methods` is the union of all; a recipe lists some, `--set methods=...` chooses them, and a saved
run applies them again before its weights are read.
"""

from vitrail.methods.adapter import Adapter
from vitrail.methods.binary_weights import BinaryWeights
from vitrail.methods.both_sides import BothSides
from vitrail.methods.dropout import Dropout
from vitrail.methods.flexivit import Flexivit
from vitrail.methods.freeze import Freeze
from vitrail.methods.lora import LoRA
from vitrail.methods.mlp_head import MlpHead
from vitrail.methods.patch_dropout import PatchDropout
from vitrail.methods.placed_prompts import PlacedPrompts
from vitrail.methods.privit import PriViT
from vitrail.methods.pss import PSS
from vitrail.methods.scheduled_drop_path import ScheduledDropPath
from vitrail.methods.side_tune import SideTune
from vitrail.methods.still_norms import StillNorms
from vitrail.methods.tuning import BiasTuning, NormTuning
from vitrail.methods.vpt import VPT

Methods = (
    Adapter
    | BiasTuning
    | BinaryWeights
    | BothSides
    | Dropout
    | Flexivit
    | Freeze
    | LoRA
    | MlpHead
    | NormTuning
    | PatchDropout
    | PlacedPrompts
    | PSS
    | PriViT
    | ScheduledDropPath
    | SideTune
    | StillNorms
    | VPT
)
