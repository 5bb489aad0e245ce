"""vitrail: vision backbones under one roof, and the best of them for your images and budget.

    import vitrail
    model = vitrail.create("swin_tiny", classes=10)        # random weights
    model = vitrail.load("swin_tiny", "swin_tiny.pth")     # published weights, any known names
    vitrail.catalog()["swin_tiny"].params_m                # published figures
    vitrail.identify("unknown.pth")                        # which model is this, and whose names

The main job is `from vitrail.fit import fit`. Everything is imported on first use, so that
`import vitrail` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.models import catalog, create, identify, load

__version__ = "0.1.0"
__all__ = ["catalog", "create", "identify", "load"]

_HOMES = {
    "catalog": "vitrail.models",
    "create": "vitrail.models",
    "identify": "vitrail.models",
    "load": "vitrail.models",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vitrail' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
