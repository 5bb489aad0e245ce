"""A shared network: the weights of all candidates of a space at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from vitrail.models import create
from vitrail.models.trunk.catalog import skeleton
from vitrail.search.supernets.indices import Prefix, Rule


class Supernet(nn.Module):
    """Hands out to each candidate the weights that it inherits, by rules of which channels.

    Who derives from it writes `inherited`. The candidate computes as the model of its own Config
    does, so that what is trained here is what is built later, to the bit.
    """

    def inherited(self, config: Any, rule: Rule) -> dict[str, Tensor]:
        """Return the state of the candidate `config` under the names of its own model.

        Tensors are views of the shared ones where a range of channels suffices. Raises ValueError
        for a candidate that is not of this space.
        """
        raise NotImplementedError

    def forward(
        self, image: Float[Tensor, "b channels h w"], config: Any, rule: Rule
    ) -> Float[Tensor, "b classes"]:
        """Return the logits of a candidate, (B, classes), with the weights that it inherits.

        Stochastic depth is off: a candidate sees few of the steps, none of which should be lost.
        """
        model = skeleton(replace(config, drop_path=0.0)).train(self.training)
        return functional_call(model, self.inherited(config, rule), (image,))

    def extracted(self, config: Any, rule: Rule | None = None) -> nn.Module:
        """Return a model of its own that begins with a candidate's inherited weights, in eval mode.

        By default they are those of the first channels.
        """
        state = self.inherited(config, rule or Prefix())
        some = next(iter(state.values()))
        model = create(config).to(device=some.device, dtype=some.dtype)
        model.load_state_dict({name: value.detach() for name, value in state.items()}, strict=False)
        missing = {name for name, _ in model.named_parameters()} - state.keys()
        if missing:
            raise ValueError(f"the shared network has nothing for {', '.join(sorted(missing))}")
        return model.eval()


def shapes(config: Any) -> dict[str, Sequence[int]]:
    """Return the shapes of a candidate's parameters by their names."""
    return {name: tuple(p.shape) for name, p in skeleton(config).named_parameters()}
