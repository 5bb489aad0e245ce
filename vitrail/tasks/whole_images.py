"""What tasks share that show a network whole images, each by itself, and read logits."""

from __future__ import annotations

from typing import Any

from torch import nn

from vitrail.data.batches import Batches
from vitrail.data.cache import Pixels
from vitrail.layers.normal import Normal
from vitrail.models import Backbone
from vitrail.tasks.task import Order, Outputs, Task, each_once, in_order, shuffled

WATCHED = 256


class WholeImages:
    """Batches of images with their labels, and a network that is asked about each image once."""

    def model(self, backbone: Backbone) -> nn.Module:
        """Return the backbone itself, whose head gives logits."""
        return backbone

    def training(self, pixels: Pixels, normal: Normal, order: Order) -> Batches:
        """Return shuffled, augmented batches; targets of several labels are float32 (b, labels)."""
        return shuffled(Batches, order, normal, pixels)

    def watching(self, pixels: Pixels, normal: Normal) -> Batches:
        """Return batches to judge by."""
        return in_order(Batches, WATCHED, normal, pixels)

    def answers(
        self: Task, model: nn.Module, images: Pixels, normal: Normal, device: Any
    ) -> Outputs:
        """Ask the model about all images, in their order."""
        return each_once(self, model, images, normal, device)

    def judge(self: Task, model: nn.Module, images: Pixels, normal: Normal, device: Any) -> Outputs:
        """Ask a finished model about the test images."""
        return each_once(self, model, images, normal, device)
