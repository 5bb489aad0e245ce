"""What a network's head sees, as features: of published weights before any training, and after."""

from __future__ import annotations

from vitrail.data.cache import Pixels, pixels
from vitrail.recipes.recipe import Recipe
from vitrail.run.answers import Embedded
from vitrail.run.features import unchanged
from vitrail.run.workshop import Workshop
from vitrail.tasks.baselines import MOST, Features


def frozen_features(
    recipe: Recipe, workshop: Workshop, test: Pixels, *, most: int = MOST
) -> Features | None:
    """Return the features of the weights that a recipe starts from, None where these are random.

    They are of up to `most` training images, and of all in `test`, whatever their size there.
    """
    # Weights that bring their head were trained on these classes, and are nobody's to compare with.
    if recipe.pretrained is None or recipe.keep_head:
        return None
    data, network = recipe.data, Embedded(workshop.model(unchanged(recipe)))
    train = workshop.pixels("train", data.image, data.channels).first(min(most, MOST))
    if (test.image, test.channels) != (data.image, data.channels):
        test = pixels(test.part, data.image, data.channels, progress=False)
    first, second = (
        workshop.outputs(network, recipe, images).values.numpy() for images in (train, test)
    )
    return Features("frozen features", first, second)
