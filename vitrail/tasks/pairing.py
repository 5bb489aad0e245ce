"""How well embeddings of images and of sentences find each other, and classes asked for in words.

A sentence may belong to several images, and an image may have several sentences: what is found is
right where it is one of those.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.errors import ConfigError
from vitrail.layers.pairs import prototypes
from vitrail.tasks.task import Outputs

AT = (1, 5, 10)
_HELD = 1 << 24  # cosines are held at once


@dataclass(frozen=True, eq=False)
class Pairs(Outputs):
    """Embeddings of images, `values` (N, D), with their classes, `targets` (N,), and those of all
    different sentences, `texts` (M, D), said in `said`. Rows of `own` (P, 2) are an image and a
    sentence that belong together; `asked` (K, D) are the classes in words, where there are some.
    """

    texts: Tensor
    said: Sequence[str]
    own: Tensor
    loss: float
    asked: Tensor | None = None

    @property
    def backwards(self) -> Tensor:
        """Return `own` with the sentence first."""
        return self.own.flip(1)


def ranks(asked: Tensor, found: Tensor, own: Tensor) -> Tensor:
    """Return for each row of `asked` the place of the first right row of `found`, from 1.

    Rows of `own` (P, 2) are right pairs. Ties count against it.
    """
    places = torch.empty(len(asked), dtype=torch.long)
    block = max(1, _HELD // max(1, len(found)))
    for start in range(0, len(asked), block):
        cosines = asked[start : start + block] @ found.mT
        mine = own[(own[:, 0] >= start) & (own[:, 0] < start + len(cosines))]
        right = torch.zeros_like(cosines, dtype=torch.bool)
        right[mine[:, 0] - start, mine[:, 1]] = True
        best = cosines.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        places[start : start + block] = 1 + ((cosines >= best) & ~right).sum(1)
    return places


def recalls(places: Tensor) -> dict[int, float]:
    """Return for each k how often a right one is among the first k."""
    return {k: (places <= k).double().mean().item() for k in AT}


def by_chance(own: Tensor, asked: int, found: int) -> dict[int, float]:
    """Return what `recalls` gives for places in random order, on average over what has a right
    one."""
    right = torch.bincount(own[:, 0], minlength=asked).double()
    right = right[right > 0]
    missed, chances = torch.ones(len(right), dtype=torch.float64), {}
    for k in range(1, max(AT) + 1):
        left = found - (k - 1)
        if left > 0:
            missed *= ((left - right) / left).clamp(min=0)
        if k in AT:
            chances[k] = 1 - missed.mean().item()
    return chances


def check_prompts(prompts: Sequence[str], such: str = "a photo of a {}") -> None:
    """Raise ConfigError for sentences without a place for the class, and for none."""
    if not prompts or not all("{}" in one for one in prompts):
        raise ConfigError(
            f"prompts are {list(prompts)}: give at least one, each with {{}} where the class "
            f"stands, such as '{such}'"
        )


def prompted(name: str, prompts: Sequence[str]) -> list[str]:
    """Return a class in sentences, its own article in place of the sentence's.

    Examples:
        >>> prompted("a shirt", ["a photo of a {}.", "{}"])
        ['a photo of a shirt.', 'a shirt']
    """
    article = re.match(r"(an?|the) ", name, re.IGNORECASE)
    some = [re.sub(r"\b(an?|the) \{\}", "{}", one) if article else one for one in prompts]
    return list(dict.fromkeys(one.replace("{}", name) for one in some))


def in_words(
    names: Sequence[str], prompts: Sequence[str], embed: Callable[[list[str]], Tensor]
) -> Tensor:
    """Return an embedding of each class (K, D): the mean over its sentences, of length 1."""
    return prototypes([embed(prompted(name, prompts)) for name in names])


def chances(outputs: Pairs, one: str = "image", other: str = "text") -> dict[str, float]:
    """Return what each recall of `figures` is where everything is found in random order."""
    n, m = len(outputs.values), len(outputs.texts)
    forth, back = by_chance(outputs.own, n, m), by_chance(outputs.backwards, m, n)
    told = {f"{one} to {other}, recall at {k}": value for k, value in forth.items()}
    return told | {f"{other} to {one}, recall at {k}": value for k, value in back.items()}


def figures(outputs: Pairs, one: str = "image", other: str = "text") -> Mapping[str, float]:
    """Return recall at 1, 5 and 10 in both directions, over what has a right one, and zero-shot
    accuracy where it is known."""
    has = outputs.own[:, 0].unique()
    forth = recalls(ranks(outputs.values, outputs.texts, outputs.own)[has])
    back = recalls(ranks(outputs.texts, outputs.values, outputs.backwards))
    told = {f"{one} to {other}, recall at {k}": value for k, value in forth.items()}
    told |= {f"{other} to {one}, recall at {k}": value for k, value in back.items()}
    if outputs.asked is not None:
        right = (outputs.values @ outputs.asked.mT).argmax(1) == outputs.targets
        told["zero-shot accuracy"] = right.double().mean().item()
    return told
