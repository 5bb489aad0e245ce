"""The same models at their peers, with random weights: what speed is compared with.

A row is our variant; each entry builds a peer's model of it. Where a peer departs from the
authors in a detail, the row says so and undoes it, so that outputs can be compared before
anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import timm
import torch
import torchvision
import transformers as hf
from torch import nn

from vitrail.layers.ffn import QuickGELU

Make = Callable[[], nn.Module]


def _timm(name: str, **changes: object) -> Make:
    return lambda: timm.create_model(name, **changes)


def _cvt() -> nn.Module:
    model = hf.CvtForImageClassification(hf.CvtConfig(num_labels=1000))
    for module in model.modules():
        if isinstance(getattr(module, "activation", None), nn.GELU):
            module.activation = QuickGELU()  # transformers takes the exact GELU
    return model


def _levit() -> nn.Module:
    config = hf.LevitConfig(
        hidden_sizes=[128, 256, 384],
        num_attention_heads=[4, 6, 8],
        depths=[2, 3, 4],
        key_dim=[16, 16, 16],
        num_labels=1000,
    )
    return hf.LevitForImageClassificationWithTeacher(config)


_TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}


def _vit() -> nn.Module:
    tanh = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
    return hf.ViTForImageClassification(hf.ViTConfig(**_TINY, **tanh, num_labels=1000))


def _deit() -> nn.Module:
    config = hf.DeiTConfig(**_TINY, layer_norm_eps=1e-6, num_labels=1000)
    return hf.DeiTForImageClassificationWithTeacher(config)


def _swin() -> nn.Module:
    return hf.SwinForImageClassification(hf.SwinConfig(num_labels=1000))


def _resnet() -> nn.Module:
    return hf.ResNetForImageClassification(hf.ResNetConfig(num_labels=1000))


def _pvt() -> nn.Module:
    return hf.PvtForImageClassification(hf.PvtConfig(num_labels=1000))


PEERS: Mapping[str, Mapping[str, Make]] = {
    "vit_ti16": {
        # timm's default is the exact GELU; the authors' weights want the tanh form
        "timm": _timm("vit_tiny_patch16_224", act_layer="gelu_tanh"),
        "transformers": _vit,
    },
    "vit_r26_s32": {"timm": _timm("vit_small_r26_s32_224", act_layer="gelu_tanh")},
    "deit_tiny": {"timm": _timm("deit_tiny_patch16_224")},
    "deit_tiny_distilled": {
        "timm": _timm("deit_tiny_distilled_patch16_224"),
        "transformers": _deit,
    },
    "cait_xxs24_224": {"timm": _timm("cait_xxs24_224")},
    "xcit_nano_12_p16": {"timm": _timm("xcit_nano_12_p16_224")},
    "mixer_s32": {"timm": _timm("mixer_s32_224")},
    "mixer_s16": {"timm": _timm("mixer_s16_224")},
    "tnt_s": {"timm": _timm("tnt_s_legacy_patch16_224")},
    "pvt_tiny": {"transformers": _pvt},
    "cvt_13": {"transformers": _cvt},
    "levit_128s": {"timm": _timm("levit_128s"), "transformers": _levit},
    "swin_tiny": {
        "timm": _timm("swin_tiny_patch4_window7_224"),
        "transformers": _swin,
        "torchvision": torchvision.models.swin_t,
    },
    "maxvit_tiny": {"timm": _timm("maxvit_tiny_tf_224")},
    "maxvit_tiny_torchvision": {"torchvision": torchvision.models.maxvit_t},
    "coatnet_0_timm": {"timm": _timm("coatnet_0_224")},
    "volo_d1_224": {"timm": _timm("volo_d1_224")},
    "mvitv2_t": {"timm": _timm("mvitv2_tiny")},
    "seresnet_50": {"timm": _timm("seresnet50")},
    "botnet_26t": {"timm": _timm("botnet26t_256")},
    "halonet_26t": {"timm": _timm("halonet26t")},
    "resnet_50": {
        "torchvision": torchvision.models.resnet50,
        "timm": _timm("resnet50"),
        "transformers": _resnet,
    },
}


def scattered(model: nn.Module) -> nn.Module:
    """The model in eval mode, without the zeros and tiny scales in which faults could hide."""
    for name, value in model.named_parameters():
        if "gamma" in name or (value.ndim == 1 and name.endswith("weight")):
            nn.init.uniform_(value, 0.5, 1)
        elif value.ndim > 1 and not value.any():
            nn.init.normal_(value, std=0.02)
    return model.eval()


def logits(output: object) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.logits  # type: ignore[attr-defined]
