"""Eager inference of every family against its peers, same weights, same run, alternating.

    python bench/speed.py [--threads 2] [--rounds 15] [family ...]

Prints medians in ms at batch 1 and 8, the ratio of the fastest peer to ours, and the same
after exact folding (`vitrail.layers.fold.deploy`). Outputs are compared before anything is
timed.
"""

from __future__ import annotations

import argparse
import statistics
import time

import timm
import torch
import torchvision
import transformers

import vitrail
from vitrail.layers.fold import deploy
from vitrail.measure.machine import machine
from vitrail.models import families


def peers(family: str) -> tuple[str, dict[str, torch.nn.Module]]:
    """Our variant, and the peers' models of it with random weights, by their name tables."""
    torch.manual_seed(0)
    hf = transformers
    if family == "vit":
        sizes = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
        config = hf.ViTConfig(
            **sizes, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6, num_labels=1000
        )
        return "vit_ti16", {
            "timm": timm.create_model("vit_tiny_patch16_224", act_layer="gelu_tanh"),
            "transformers": hf.ViTForImageClassification(config),
        }
    if family == "cvt":
        model = hf.CvtForImageClassification(hf.CvtConfig(num_labels=1000))
        from vitrail.layers.ffn import QuickGELU

        for module in model.modules():
            if isinstance(getattr(module, "activation", None), torch.nn.GELU):
                module.activation = QuickGELU()  # transformers departs from the authors here
        return "cvt_13", {"transformers": model}
    if family == "levit":
        config = hf.LevitConfig(
            hidden_sizes=[128, 256, 384],
            num_attention_heads=[4, 6, 8],
            depths=[2, 3, 4],
            key_dim=[16, 16, 16],
            num_labels=1000,
        )
        return "levit_128s", {
            "timm": timm.create_model("levit_128s"),
            "transformers": hf.LevitForImageClassificationWithTeacher(config),
        }
    if family == "swin":
        return "swin_tiny", {
            "timm": timm.create_model("swin_tiny_patch4_window7_224"),
            "transformers": hf.SwinForImageClassification(hf.SwinConfig(num_labels=1000)),
            "torchvision": torchvision.models.swin_t(),
        }
    if family == "resnet":
        return "resnet_50", {
            "torchvision": torchvision.models.resnet50(),
            "timm": timm.create_model("resnet50"),
            "transformers": hf.ResNetForImageClassification(hf.ResNetConfig(num_labels=1000)),
        }
    return "cct_7_3x1_32", {}  # nobody else has the Compact Transformers


@torch.inference_mode()
def medians(models: dict[str, torch.nn.Module], x: torch.Tensor, rounds: int) -> dict[str, float]:
    """Median seconds of each model, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 2):
        for name, model in models.items():
            start = time.perf_counter()
            model(x)
            if turn > 1:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def logits(output: object) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.logits  # type: ignore[attr-defined]


def compare(family: str, rounds: int) -> None:
    name, others = peers(family)
    for module in (m for peer in others.values() for m in peer.modules()):
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            # Branches that start at zero would hide differences.
            torch.nn.init.uniform_(module.weight, 0.5, 1)
    ours = vitrail.create(name).eval()
    for source, peer in list(others.items())[:1]:
        ours = vitrail.load(name, peer.state_dict(), source=source)
    c = ours.config
    for other, model in others.items():
        model.eval()
        x = torch.randn(2, c.channels, *c.image)
        mine = vitrail.load(name, model.state_dict(), source=other)
        with torch.inference_mode():
            gap = (mine(x) - logits(model(x))).abs().max() / mine(x).std()
        assert gap < 1e-3, f"{name} and {other} compute different things: {gap}"
    models = {"vitrail": ours, "folded": deploy(ours), **others}
    for batch in (1, 8):
        found = medians(models, torch.randn(batch, c.channels, *c.image), rounds)
        times = "  ".join(f"{k} {v * 1e3:.1f}" for k, v in found.items())
        said = "nobody else has it"
        if others:
            best = min(found[k] for k in others)
            said = f"eager {best / found['vitrail']:.2f}x, folded {best / found['folded']:.2f}x"
        print(f"{name:14} batch {batch}: {said}   (ms: {times})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", default=sorted(families()))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    print({m.__name__: m.__version__ for m in (torch, timm, transformers, torchvision)})
    for family in options.families:
        compare(family, options.rounds)


if __name__ == "__main__":
    main()
