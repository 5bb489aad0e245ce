"""Contrastive losses of clips with several candidate partners each: NCE and MIL-NCE.

Akbari et al., "VATT", NeurIPS 2021, arXiv 2104.11178; Miech et al., "End-to-End Learning of Visual
Representations from Uncurated Instructional Videos", CVPR 2020, arXiv 1912.06430. With one
candidate a clip MIL-NCE is NCE. Batches of all processes are compared.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitrail.layers.pairs import gathered

# Added where a partner is missing.
MISSING = -1e9
# The lower bound of a length, as TensorFlow has it.
SHORTEST = 1e-6


def nce(
    clips: Float[Tensor, "b d"],
    partners: Float[Tensor, "b l d"],
    there: Float[Tensor, "b *l"] | None = None,
    *,
    temperature: float = 0.07,
    symmetric: bool = False,
) -> Float[Tensor, "n"]:
    """Return the loss of every clip of all processes, (N,), whose mean is that of the batch.

    `partners` are L candidates of each clip, any of which may be the right one. The loss is log of
    the sum of exp(cosine / temperature) over all pairs of the clip or of its candidates, less that
    over its own pairs, which the first sum has twice, as the authors' does; `symmetric` has two
    sums in its place, pairs of the clip and pairs of its candidates, and adds two losses. Where
    `there` (B,), or (B, L) of each candidate, is 0 a clip lacks partners: nobody is compared with
    what stands in their place. The loss of a clip without any is 0, and the other losses grow by N
    over their number.
    """
    own, others = F.normalize(gathered(clips), dim=-1, eps=SHORTEST), gathered(partners)
    n = len(own)
    others = F.normalize(others, dim=-1, eps=SHORTEST)
    logits = torch.einsum("id,jld->ijl", own, others) / temperature
    known = own.new_ones(n) if there is None else gathered(there.to(own.dtype))
    each = known if known.ndim == 2 else known[:, None].expand(n, others.shape[1])
    kept = each.amax(1)
    # Of a clip without partners all sums are finite, as it is multiplied by 0.
    lacking = torch.where(kept[:, None] > 0, (1 - each) * MISSING, 0)
    right = (logits.diagonal().T + lacking).logsumexp(1)
    logits = logits + (1 - each) * MISSING
    rows, columns = logits.flatten(1), logits.transpose(0, 1).flatten(1)
    if symmetric:
        loss = rows.logsumexp(1) + columns.logsumexp(1) - 2 * right
    else:
        loss = torch.cat([rows, columns], 1).logsumexp(1) - right
    return torch.where(kept > 0, loss, 0) * n / kept.sum().clamp(min=1)


def weighed(losses: dict[str, Float[Tensor, "_"]], weights: dict[str, float]) -> Float[Tensor, ""]:
    """Return the mean of each kind of losses, averaged by weights; kinds without one count 1."""
    shares = {name: weights.get(name, 1.0) for name in losses}
    total = sum(shares.values())
    return torch.stack([loss.mean() * shares[name] for name, loss in losses.items()]).sum() / total
