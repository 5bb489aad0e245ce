"""AutoFormer's shared network: every candidate is a prefix of it, which is weight entanglement.

Chen et al., ICCV 2021, arXiv 2107.00651. A candidate is a Config of `vitrail.models.autoformer`,
and the shared network is the widest of them. Its fused projection is stored interleaved, row
3 i + t is row i of q, k or v, but its bias is not: both are cut as in the authors' code, so that
their checkpoints, which `NAMES` reads, mean what they meant.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from vitrail.layers.patches import class_row
from vitrail.models.autoformer import AutoFormer, Config
from vitrail.search.supernets.indices import Residues, Rule, taken
from vitrail.search.supernets.supernet import Supernet

# The released shared networks' tensors under the names of `Super`.
NAMES = [
    ("cls_token", "net.embed.token[+]"),
    ("pos_embed", ("net.embed.token[+2]", "net.embed.position"), class_row),
    ("patch_embed_super.", "net.embed."),
    ("blocks.{i}.attn_layer_norm.", "net.blocks.{i}.norm1."),
    ("blocks.{i}.ffn_layer_norm.", "net.blocks.{i}.norm2."),
    ("blocks.{i}.attn.rel_pos_embed_k.embeddings_table_v", "net.blocks.{i}.mixer.keys.rows"),
    ("blocks.{i}.attn.rel_pos_embed_k.embeddings_table_h", "net.blocks.{i}.mixer.keys.columns"),
    ("blocks.{i}.attn.rel_pos_embed_v.embeddings_table_v", "net.blocks.{i}.mixer.values.rows"),
    ("blocks.{i}.attn.rel_pos_embed_v.embeddings_table_h", "net.blocks.{i}.mixer.values.columns"),
    ("blocks.{i}.attn.", "net.blocks.{i}.mixer."),
    ("blocks.{i}.fc", "net.blocks.{i}.ffn.fc"),
    ("norm.", "net.norm."),
    ("head.", "net.head."),
]


class Super(Supernet):
    """The shared weights of all candidates up to the sizes of `widest`; first blocks are kept."""

    def __init__(self, widest: Config) -> None:
        super().__init__()
        self.config, self.net = widest, AutoFormer(widest)

    def parts(self, config: Config) -> list[Config]:
        """Return a Config for each block."""
        sizes = zip(config.heads, config.mlp_ratios, strict=True)
        return [replace(config, heads=(heads,), mlp_ratios=(ratio,)) for heads, ratio in sizes]

    def filling(self, shell: nn.Module, config: Config, rule: Rule) -> dict[str, Tensor]:
        """Return the state of a candidate. Raises ValueError for one of another space."""
        widest = self.config
        if len(config.heads) > len(widest.heads) or config.patch != widest.patch:
            raise ValueError(
                f"a candidate of {len(config.heads)} blocks and patch {config.patch}: this shared "
                f"network has {len(widest.heads)} blocks and patch {widest.patch}"
            )
        own, found = dict(self.net.named_parameters()), {}
        for name, meta in shell.named_parameters(remove_duplicate=False):
            shape = meta.shape
            rows = {0: Residues(3)} if name.endswith("mixer.qkv.weight") else None
            found[name] = taken(own[name], shape, rule, rows)
        return found
