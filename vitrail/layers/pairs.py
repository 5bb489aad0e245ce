"""Images and sentences that belong together: losses of a whole batch, ranks, zero-shot classes.

Embeddings are (B, D) of length 1, row i of the images belonging to row i of the sentences. The
softmax loss: Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision", ICML 2021, arXiv 2103.00020; the sigmoid loss: Zhai et al., "Sigmoid Loss for Language
Image Pre-Training", ICCV 2023, arXiv 2303.15343.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# Added to a length, not its lower bound, as big_vision does.
TINY = 1e-8


def unit(x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """Divide every row by its length plus 1e-8."""
    return x / (x.norm(dim=-1, keepdim=True) + TINY)


def gathered(x: Float[Tensor, "b *d"]) -> Float[Tensor, "n *d"]:
    """Return the rows of all processes, in their order; of one process its own.

    Gradients flow back to the rows of every process. Each process then computes one and the same
    loss, so what comes back is the sum of equal gradients, which the mean over processes that
    training takes makes right.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    from torch.distributed.nn.functional import all_gather

    return torch.cat(list(all_gather(x)))


def softmax_loss(
    images: Float[Tensor, "b d"], texts: Float[Tensor, "b d"], temperature: Tensor
) -> Float[Tensor, ""]:
    """Return the mean cross entropy of telling each image's sentence and each sentence's image.

    `temperature` multiplies the cosines, which are of the batches of all processes.
    """
    logits = temperature * gathered(images) @ gathered(texts).mT
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.mT, own)) / 2


def sigmoid_loss(
    images: Float[Tensor, "b d"], texts: Float[Tensor, "b d"], temperature: Tensor, bias: Tensor
) -> Float[Tensor, ""]:
    """Return -log sigmoid(+-(temperature cosine + bias)), summed over sentences, mean of images.

    The sign is + for a pair, - for all others of the batches of all processes.
    """
    logits = temperature * gathered(images) @ gathered(texts).mT + bias
    signs = 2 * torch.eye(len(logits), dtype=logits.dtype, device=logits.device) - 1
    return -F.logsigmoid(signs * logits).sum(1).mean()


def recall(
    asked: Float[Tensor, "n d"], found: Float[Tensor, "n d"], at: Sequence[int] = (1, 5, 10)
) -> dict[int, float]:
    """Return for each k how often row i of `found` is among the k nearest to row i of `asked`.

    Ties count against it.
    """
    cosines = asked @ found.mT
    rank = (cosines >= cosines.diagonal()[:, None]).sum(1)
    return {k: (rank <= k).double().mean().item() for k in at}


def prototypes(prompts: Sequence[Float[Tensor, "_ d"]]) -> Float[Tensor, "k d"]:
    """Return one embedding a class from those of its prompts: their mean, of length 1.

    The class of an image is that of the largest cosine.
    """
    return unit(torch.stack([some.mean(0) for some in prompts]))
