"""Several processes that train one model together and end with the one that started them."""

from __future__ import annotations

from lightning_fabric.strategies.ddp import DDPStrategy

from vitrail import children


class Tied(DDPStrategy):
    """Lightning Fabric's, each process of which is tied to its parent before they meet: where the
    parent is gone, one that never comes would be waited for without end."""

    def setup_environment(self) -> None:
        children.tie()
        super().setup_environment()
