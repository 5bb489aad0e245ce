"""What two parties have to know, and what one of them alone has, to compute a model on secrets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.layers.attention import Attention
from vitrail.layers.ffn import Mlp
from vitrail.layers.switches import THRESHOLD, SwitchedAttention, SwitchedMlp
from vitrail.layers.tokens import FirstToken, Mean
from vitrail.models.trunk.backbone import Isotropic


@dataclass(frozen=True, eq=False)
class Plan:
    """A model as arrays for two parties.

    `told` is public: sizes, and which switches are on. `weights` are the server's arrays.
    """

    told: dict[str, Any]
    weights: dict[str, np.ndarray]
    patch: tuple[int, int]

    def patches(self, image: Tensor) -> np.ndarray:
        """Cut a normalised image (C, H, W) into patches (n, C p p), as the stem sees them."""
        cut = nn.functional.unfold(image[None].float(), self.patch, stride=self.patch)
        return np.ascontiguousarray(cut[0].T.numpy())


@torch.no_grad()
def plan(model: nn.Module) -> Plan:
    """Return what the parties have to know of a ViT or DeiT, with or without PriViT's switches.

    Raises ConfigError for a model that is anything else.
    """
    _check(model)
    assert isinstance(model, Isotropic)
    c, convolution = model.config, _stem(model)
    image = torch.zeros(1, c.channels, *c.image)
    # Bias, positions and class token: what tokens are where the image says nothing.
    base = model.embed(image)[0]
    weights = {"base": base, "stem": convolution.weight.flatten(1).T}
    blocks = []
    for number, block in enumerate(model.blocks):
        arrays, told = _block(block, len(base))
        weights |= {f"{number}.{name}": value for name, value in arrays.items()}
        blocks.append(told | {"arrays": sorted(arrays)})
    norm: Any = model.norm
    weights |= {"norm": _norm(norm), "head": _affine(_head(model))}
    told = {
        "tokens": len(base), "blocks": blocks, "eps": norm.eps,
        "pool": "mean" if isinstance(model.pool, Mean) else "first", "read": 1,
    }  # fmt: skip
    arrays = {n: np.ascontiguousarray(v.float().numpy()) for n, v in weights.items()}
    patch: Any = convolution.kernel_size
    return Plan(told | {"arrays": {n: v.shape for n, v in arrays.items()}}, arrays, patch)


def _check(model: Any) -> None:
    """Raise ConfigError unless the model is of parts that the parties know."""
    fits = isinstance(model, Isotropic) and all(
        isinstance(block.mixer, SwitchedAttention | Attention)
        and isinstance(block.ffn, SwitchedMlp | Mlp)
        and isinstance(block.ffn.act, nn.GELU)
        and isinstance(block.scale1, nn.Identity)
        for block in model.blocks
    )
    if not fits or not isinstance(model.pool, FirstToken | Mean) or _stem(model) is None:
        raise ConfigError(
            f"{type(model).__name__} cannot be computed on secrets: give a run of a ViT or DeiT of "
            "one class token or the mean, with MLPs of GELU, before or after `vitrail compress "
            "--method privit`"
        )


def _stem(model: Any) -> Any:
    """Return the one convolution that cuts the image into patches, None where there is another."""
    found = [m for m in model.embed.modules() if isinstance(m, nn.Conv2d)]
    sides = zip(found[0].kernel_size, model.config.image, strict=True) if len(found) == 1 else ()
    whole = [found[0].stride == found[0].kernel_size] if found else []
    whole += [side % patch == 0 for patch, side in sides]
    return found[0] if len(whole) == 3 and all(whole) else None


def _head(model: Any) -> nn.Linear:
    head = model.head
    head = head if isinstance(head, nn.Linear) else getattr(head, "deployed", lambda: None)()
    if not isinstance(head, nn.Linear):
        raise ConfigError(f"{type(model).__name__} has no linear head: it cannot be computed on "
                          "secrets")  # fmt: skip
    return head


def _block(block: Any, tokens: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a block's arrays, and what is public of it."""
    mixer, ffn = block.mixer, block.ffn
    gelus, softmaxes = torch.ones(tokens), torch.ones(mixer.heads * tokens)
    if isinstance(ffn, SwitchedMlp):
        gelus = ffn.gelus.flatten()
    if isinstance(mixer, SwitchedAttention):
        softmaxes = mixer.softmaxes.flatten()
    width = mixer.proj.in_features // mixer.heads
    arrays = {
        "norm1": _norm(block.norm1), "norm2": _norm(block.norm2), "qkv": _affine(mixer.qkv),
        "proj": _affine(mixer.proj), "fc1": _affine(ffn.fc1), "fc2": _affine(ffn.fc2),
    }  # fmt: skip
    # Queries bring their scale along, which saves a product of all scores.
    queries = arrays["qkv"][:, : mixer.proj.in_features]
    queries *= width**-0.5 if mixer.scale is None else mixer.scale
    told = {"heads": mixer.heads, "eps": block.norm1.eps}
    return arrays, told | {"gelus": _on(gelus), "softmaxes": _on(softmaxes)}


def _on(switches: Tensor) -> list[int]:
    return (switches > THRESHOLD).nonzero().flatten().tolist()


def _norm(norm: Any) -> Tensor:
    return torch.stack([norm.weight, norm.bias])


def _affine(linear: Any) -> Tensor:
    """Return weight and bias as (inputs + 1, outputs)."""
    bias = linear.weight.new_zeros(len(linear.weight)) if linear.bias is None else linear.bias
    return torch.cat([linear.weight.T, bias[None]])
