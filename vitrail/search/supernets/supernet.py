"""A shared network: the weights of all candidates of a space at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.models import create
from vitrail.models.trunk.catalog import skeleton
from vitrail.search.supernets.indices import Prefix, Rule

M = TypeVar("M", bound=nn.Module)


class Supernet(nn.Module):
    """Hands out to each candidate the weights that it inherits, by rules of which channels.

    Who derives from it writes `filling` and `parts`. The candidate computes as the model of its
    own Config does, so that what is trained here is what is built later, to the bit.
    """

    def inherited(self, config: Any, rule: Rule) -> dict[str, Tensor]:
        """Return the state of the candidate `config` under the names of its own model.

        Tensors are views of the shared ones where a range of channels suffices. Raises ValueError
        for a candidate that is not of this space.
        """
        return self.filling(self.shell(config), config, rule)

    def filling(self, shell: nn.Module, config: Any, rule: Rule) -> dict[str, Tensor]:
        """Return the same for the modules of the candidate, which say what it has."""
        raise NotImplementedError

    def parts(self, config: Any) -> Sequence[Any]:
        """Return a Config of one block for each block of a candidate, in their order.

        They may differ from it in sizes that no module reads but in its tensors' shapes, so that
        there are few of them.
        """
        raise NotImplementedError

    def forward(
        self, image: Float[Tensor, "b channels h w"], config: Any, rule: Rule
    ) -> Float[Tensor, "b classes"]:
        """Return the logits of a candidate, (B, classes), with the weights that it inherits.

        Stochastic depth is off: a candidate sees few of the steps, none of which should be lost.
        """
        model = self.shell(config)
        _fill(model, self.filling(model, config, rule))
        return model.train(self.training)(image)

    def shell(self, config: Any) -> nn.Module:
        """Return the modules of a candidate on the meta device, without its shapes.

        Blocks that were made once are copied: to make a network anew took 4 to 15 ms of one core.
        """
        made: list[Any] = [skeleton(replace(part, drop_path=0.0)) for part in self.parts(config)]
        model = _copied(made[0])
        model.blocks._modules = {str(i): _copied(one.blocks[0]) for i, one in enumerate(made)}
        return model

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


def _copied(module: M) -> M:
    """Return the module and those in it, with tables of their own that hold the same tensors."""
    made = module.__class__.__new__(module.__class__)
    made.__dict__ = module.__dict__ | {
        "_parameters": module._parameters.copy(),
        "_buffers": module._buffers.copy(),
        "_modules": {name: inner and _copied(inner) for name, inner in module._modules.items()},
    }
    return made


def _fill(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put tensors where the model has others of these names."""
    places = dict(model.named_modules())
    for name, tensor in state.items():
        where, _, leaf = name.rpartition(".")
        owner = places[where]
        table: dict[str, Any] = owner._parameters if leaf in owner._parameters else owner._buffers
        table[leaf] = tensor
