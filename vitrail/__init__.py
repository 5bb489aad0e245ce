"""vitrail: vision backbones under one roof, and the best of them for your images and budget.

    import vitrail
    run = vitrail.fit("photos", latency="20ms", out="run")   # the best model within the budget
    vitrail.predict("run", ["cat.jpg", "dog.jpg"])           # what it says of images
    model = vitrail.create("swin_tiny", classes=10)          # random weights
    model = vitrail.load("swin_tiny", "swin_tiny.pth")       # published weights, any known names

`__all__` is what is promised; every function of it has an example that a test runs. All is
imported on first use, so that `import vitrail` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.jobs.compare import compare
    from vitrail.jobs.evaluate import evaluate
    from vitrail.jobs.explain import explain_files as explain
    from vitrail.jobs.export import export
    from vitrail.jobs.fit import fit
    from vitrail.jobs.predict import predict
    from vitrail.jobs.train import train_recipe as train
    from vitrail.models import catalog, create, identify, load

__version__ = "0.1.0"
__all__ = [
    "catalog",
    "compare",
    "create",
    "evaluate",
    "explain",
    "export",
    "fit",
    "identify",
    "load",
    "predict",
    "train",
]

_HOMES = {
    "catalog": ("vitrail.models", "catalog"),
    "compare": ("vitrail.jobs.compare", "compare"),
    "create": ("vitrail.models", "create"),
    "evaluate": ("vitrail.jobs.evaluate", "evaluate"),
    "explain": ("vitrail.jobs.explain", "explain_files"),
    "export": ("vitrail.jobs.export", "export"),
    "fit": ("vitrail.jobs.fit", "fit"),
    "identify": ("vitrail.models", "identify"),
    "load": ("vitrail.models", "load"),
    "predict": ("vitrail.jobs.predict", "predict"),
    "train": ("vitrail.jobs.train", "train_recipe"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(
            f"module 'vitrail' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    home, function = _HOMES[name]
    return getattr(import_module(home), function)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
