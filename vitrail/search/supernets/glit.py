"""GLiT's shared network: every choice of a block has weights of its own, and a step trains one.

Chen et al., ICCV 2021, arXiv 2107.02960, which follows Guo et al., ECCV 2020, arXiv 1904.00420. A
candidate is a Config of `vitrail.models.glit`. Statistics of BatchNorms are kept for each choice
and mean little for a candidate, whose maps come from other choices: whoever judges one takes them
anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from vitrail.models.glit import Config, GLiT
from vitrail.search.supernets.indices import Rule
from vitrail.search.supernets.supernet import Supernet

Sizes = tuple[float, ...]


class Super(Supernet):
    """The choices of all blocks: block i of each of the candidates `options`.

    All have the same width, heads and number of blocks.
    """

    def __init__(self, options: Sequence[Config]) -> None:
        super().__init__()
        nets = [GLiT(option) for option in options]
        depth = len(options[0].local)
        self.choices = [[block_sizes(option, i) for option in options] for i in range(depth)]
        self.embed, self.norm, self.head = nets[0].embed, nets[0].norm, nets[0].head
        self.blocks = nn.ModuleList(
            nn.ModuleList(net.blocks[i] for net in nets) for i in range(depth)
        )

    def parts(self, config: Config) -> list[Config]:
        """Return a Config for each block."""
        c, names = config, ("local", "attention_ratios", "kernels", "local_ratios", "mlp_ratios")
        return [
            replace(c, **{name: (getattr(c, name)[i],) for name in names})
            for i in range(len(c.local))
        ]

    def filling(self, shell: nn.Module, config: Config, rule: Rule) -> dict[str, Tensor]:
        """Return the state of a candidate, BatchNorm's statistics included; no rule cuts anything.

        Raises ValueError for one that has a block which is not a choice here.
        """
        own, places = self.state_dict(keep_vars=True), {}
        for i in range(len(config.local)):
            sizes = block_sizes(config, i)
            if i >= len(self.choices) or sizes not in self.choices[i]:
                raise ValueError(
                    f"block {i} has {sizes} (local heads, attention ratio, kernel, local and MLP "
                    "ratio), which this shared network does not offer"
                )
            places[str(i)] = self.choices[i].index(sizes)
        found = {}
        for name in shell.state_dict():
            kind, _, rest = name.partition(".")
            n, _, inside = rest.partition(".")
            found[name] = own[f"blocks.{n}.{places[n]}.{inside}" if kind == "blocks" else name]
        return found


def block_sizes(config: Config, i: int) -> Sizes:
    """Return what makes a block: sizes of shares that it lacks are nothing."""
    c, local = config, config.local[i]
    return (
        local,
        c.attention_ratios[i] if local < c.heads else 0.0,
        c.kernels[i] if local else 0,
        c.local_ratios[i] if local else 0.0,
        c.mlp_ratios[i],
    )
