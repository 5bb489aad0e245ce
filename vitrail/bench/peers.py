"""Peers: the same models in timm, transformers and torchvision, with random weights.

A variant has a peer where its family has that library's name table. Which model of timm it is
says its published checkpoint (`Variant.hub`), or a row here; transformers' configurations are
made from ours. A peer that departs from the authors in a detail is set right, and the contest
compares outputs before it times anything, so a wrong row cannot stay unnoticed.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from vitrail.errors import BenchError, extra
from vitrail.models import catalog, families
from vitrail.models.trunk.backbone import Variant, input_kind

LIBRARIES = ("timm", "transformers", "torchvision")

# Variants without a published checkpoint of timm's.
TIMM: Mapping[str, str] = {
    **{f"coatnet_{n}_timm": f"coatnet_{n}_224" for n in range(6)},
    "mixer_s32": "mixer_s32_224",
    "mixer_s16": "mixer_s16_224",
    "seresnet_18": "seresnet18",
    "seresnet_34": "seresnet34",
    "tnt_b": "tnt_b_patch16_224",
    "tnt_s": "tnt_s_legacy_patch16_224",
}
# timm's modules of attention in a ResNet, by the variant that has no model of its own there.
TIMM_GATES: Mapping[str, tuple[str, dict[str, Any]]] = {
    **{f"seresnet_{n}": (f"resnet{n}", {"attn_layer": "se"}) for n in (101, 152)},
    **{f"eca_resnet_{n}": (f"resnet{n}", {"attn_layer": "eca"}) for n in (18, 34)},
}
# What the authors' weights want where timm's default is another: the tanh form of GELU.
TIMM_CHANGES: Mapping[str, dict[str, Any]] = {
    "flexivit": {"act_layer": "gelu_tanh"},
    "vit": {"act_layer": "gelu_tanh"},
    "vit_hybrid": {"act_layer": "gelu_tanh"},
}
TORCHVISION: Mapping[str, str] = {
    **{f"resnet_{n}": f"resnet{n}" for n in (18, 34, 50, 101, 152)},
    "wide_resnet_50_2": "wide_resnet50_2",
    "wide_resnet_101_2": "wide_resnet101_2",
    "swin_tiny": "swin_t",
    "swin_small": "swin_s",
    "swin_base": "swin_b",
    "maxvit_tiny_torchvision": "maxvit_t",
    "mvit_b_16x4": "mvit_v1_b",
    "mvitv2_s_16x4": "mvit_v2_s",
}


def known(name: str) -> dict[str, Callable[[], nn.Module]]:
    """Return the builders of a variant by library, whether or not the library is installed."""
    variant = catalog()[name]
    tables = families()[variant.family].NAMES
    found = {"timm": _timm(variant), "transformers": _transformers(variant)}
    found["torchvision"] = _torchvision(variant)
    return {who: make for who, make in found.items() if make is not None and who in tables}


def installed(library: str) -> bool:
    """Return whether the library can be imported."""
    return find_spec(library) is not None


def build(
    library: str, make: Callable[[], nn.Module], image: tuple[int, ...] | None = None
) -> nn.Module:
    """Build a peer in eval mode with random weights, without zeros or tiny scales that hide faults.

    Raises BenchError where the library is not installed or does not build it.
    """
    if not installed(library):
        raise BenchError(f"{library} is not installed: {extra('bench')}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return scattered(make(), image)
    except Exception as error:
        # Another library's constructor raises whatever it likes.
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BenchError(f"{library} cannot build it: {first}") from error


def logits(output: Any) -> torch.Tensor:
    """Return the logits among what a peer's forward returns."""
    return output if isinstance(output, torch.Tensor) else output.logits


@torch.no_grad()
def scattered(model: nn.Module, image: tuple[int, ...] | None = None) -> nn.Module:
    """Return the model in eval mode with scales of the order of one and nothing zero.

    Given the shape (C, H, W) of its `image`, BatchNorms take the statistics of their own maps:
    with the initial ones a deep network leaves little of the image in its logits,
    and a comparison of them would see biases alone.
    """
    for name, value in model.named_parameters():
        scale = "gamma" in name or "layer_scale" in name
        if scale or (value.ndim == 1 and name.endswith("weight")):
            nn.init.uniform_(value, 0.5, 1)
        elif value.ndim > 1 and not value.any():
            nn.init.normal_(value, std=0.02)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    if image is not None and norms:
        before = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        model.train()(torch.randn(4, *image))
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
    return model.eval()


# ---- timm and torchvision, by name -------------------------------------------------------


def _timm(variant: Variant) -> Callable[[], nn.Module] | None:
    changes = TIMM_CHANGES.get(variant.family, {})
    if variant.name in TIMM_GATES:
        host, block = TIMM_GATES[variant.name]
        return lambda: import_module("timm").create_model(host, block_args=block)
    name = TIMM.get(variant.name)
    if name is None and "timm" in variant.hub:
        name = variant.hub["timm"].rpartition("/")[2].partition(".")[0]
    if name is None:
        return None
    classes = variant.config.classes
    return lambda: import_module("timm").create_model(name, num_classes=classes, **changes)


def _torchvision(variant: Variant) -> Callable[[], nn.Module] | None:
    config = variant.config
    if variant.family == "vit_c":
        return lambda: _vit_c(config)
    name = TORCHVISION.get(variant.name)
    if name is None:
        return None
    return lambda: import_module("torchvision").models.get_model(name, num_classes=config.classes)


def _vit_c(c: Any) -> nn.Module:
    from torchvision.models.vision_transformer import ConvStemConfig, VisionTransformer

    from vitrail.models.vit_c import stride

    stem = [ConvStemConfig(w, 3, s) for w, s in zip(c.stem, c.strides, strict=True)]
    sizes = (c.image[0], stride(c), c.depth, c.heads, c.dim, c.hidden)
    return VisionTransformer(*sizes, num_classes=c.classes, conv_stem_configs=stem or None)


# ---- transformers, by configuration ------------------------------------------------------


def _transformers(variant: Variant) -> Callable[[], nn.Module] | None:
    make = _CONFIGURATIONS.get(variant.family)
    if make is None or "transformers" not in variant.hub:
        return None
    return lambda: make(import_module("transformers"), variant.config)


def _vit(hf: Any, c: Any) -> nn.Module:
    config = hf.ViTConfig(
        image_size=c.image[0], patch_size=c.patch, hidden_size=c.dim, num_hidden_layers=c.depth,
        num_attention_heads=c.heads, intermediate_size=c.hidden, hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-6, num_labels=c.classes,
    )  # fmt: skip
    return hf.ViTForImageClassification(config)


def _deit(hf: Any, c: Any) -> nn.Module:
    config = hf.DeiTConfig(
        image_size=c.image[0], patch_size=c.patch, hidden_size=c.dim, num_hidden_layers=c.depth,
        num_attention_heads=c.heads, intermediate_size=4 * c.dim, layer_norm_eps=1e-6,
        num_labels=c.classes,
    )  # fmt: skip
    if c.distilled:
        return hf.DeiTForImageClassificationWithTeacher(config)
    vit = {k: v for k, v in config.to_dict().items() if k not in ("model_type", "architectures")}
    return hf.ViTForImageClassification(hf.ViTConfig(**vit))


def _swin(hf: Any, c: Any) -> nn.Module:
    config = hf.SwinConfig(
        image_size=c.image[0], embed_dim=c.dim, depths=list(c.depths), num_heads=list(c.heads),
        window_size=c.window, num_labels=c.classes,
    )  # fmt: skip
    return hf.SwinForImageClassification(config)


def _cvt(hf: Any, c: Any) -> nn.Module:
    from vitrail.layers.ffn import QuickGELU

    config = hf.CvtConfig(
        embed_dim=list(c.dims), depth=list(c.depths), num_heads=list(c.heads), num_labels=c.classes
    )
    model = hf.CvtForImageClassification(config)
    for module in model.modules():
        if isinstance(getattr(module, "activation", None), nn.GELU):
            module.activation = QuickGELU()  # it takes the exact GELU, the authors' weights do not
    return model


def _levit(hf: Any, c: Any) -> nn.Module:
    config = hf.LevitConfig(
        image_size=c.image[0], hidden_sizes=list(c.dims), num_attention_heads=list(c.heads),
        depths=list(c.depths), key_dim=[c.key_dim] * 3, num_labels=c.classes,
    )  # fmt: skip
    return hf.LevitForImageClassificationWithTeacher(config)


def _resnet(hf: Any, c: Any) -> nn.Module:
    config = hf.ResNetConfig(
        hidden_sizes=[int(d * c.expansion) for d in c.dims], depths=list(c.depths),
        layer_type="basic" if c.expansion == 1 else "bottleneck", num_labels=c.classes,
    )  # fmt: skip
    return hf.ResNetForImageClassification(config)


def _pvt(hf: Any, c: Any) -> nn.Module:
    config = hf.PvtConfig(
        image_size=c.image[0], hidden_sizes=list(c.dims), depths=list(c.depths),
        num_attention_heads=list(c.heads), mlp_ratios=list(c.ratios),
        sequence_reduction_ratios=list(c.reductions), num_labels=c.classes,
    )  # fmt: skip
    model = hf.PvtForImageClassification(config)
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):  # it has one eps for all, the authors two
            inner = "patch_embeddings" in name or name.endswith("self.layer_norm")
            module.eps = 1e-5 if inner else 1e-6
    return model


_CONFIGURATIONS: Mapping[str, Callable[[Any, Any], nn.Module]] = {
    "cvt": _cvt,
    "deit": _deit,
    "levit": _levit,
    "pvt": _pvt,
    "resnet": _resnet,
    "swin": _swin,
    "vit": _vit,
}


def smallest() -> dict[str, str]:
    """Return the cheapest image variant of every family, one that a peer has where there is one."""
    chosen: dict[str, tuple[bool, float, str]] = {}
    for name, variant in catalog().items():
        if input_kind(variant.config) != "images":
            continue
        rank = (not known(name), variant.flops_g or variant.params_m or float("inf"), name)
        chosen[variant.family] = min(chosen.get(variant.family, rank), rank)
    return {family: name for family, (_, _, name) in sorted(chosen.items())}
