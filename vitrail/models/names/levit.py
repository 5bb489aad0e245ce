"""The names that LeViT's authors, timm and transformers give to its parameters."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def _flat(kernel: Tensor) -> Tensor:
    """Return a linear layer's weight, also of the authors' and timm's 1x1-convolutional twins."""
    return kernel.flatten(1)


def _table(config: Any, rows: list, main: str, distilled: str) -> list:
    """Return the rows of one source, then what the sources have in common."""
    both = [(main, "head.main."), (distilled, "head.distilled.")]
    return [
        *rows,
        *(both if config.distilled else [(main, "head.")]),
        (".attention_bias_idxs", None),
        (".attention_biases", ".bias.table", lambda table: table.mT),
        ("stem.convs.{i}.c.", "stem.convs.{i}.conv."),
        ("stem.convs.{i}.linear.", "stem.convs.{i}.conv."),
        (".c.weight", ".linear.weight", _flat),
        (".linear.weight", ".linear.weight", _flat),
        (".l.", ".linear."),
        (".bn.", ".norm."),
        (".batch_norm.", ".norm."),
    ]


def _facebook(config: Any) -> list:
    """Return the rows of one flat list of blocks: attention and ffn in turn, a shrinking pair
    between stages.
    """
    places = []
    for i, depth in enumerate(config.depths):
        places += [f"stages.{i}.down."] * (i > 0)
        places += [f"stages.{i}.blocks.{j}." for j in range(depth)]
    rows = [(f"patch_embed.{2 * n}.", f"stem.convs.{n}.") for n in range(config.convs)]
    for k, place in enumerate(places):
        rows += [(f"blocks.{2 * k}.", f"{place}mixer."), (f"blocks.{2 * k + 1}.", f"{place}ffn.")]
    rows += [(".m.", "."), (".proj.1.", ".proj."), (".q.1.", ".q.")]
    rows += [(".ffn.0.", ".ffn.fc1."), (".ffn.2.", ".ffn.fc2.")]
    return _table(config, rows, "head.", "head_dist.")


def _timm(config: Any) -> list:
    rows = [
        ("stem.conv{i}.", "stem.convs.{i-1}."),
        (".downsample.attn_downsample.", ".down.mixer."),
        (".downsample.", ".down."),
        (".attn.", ".mixer."),
        (".mlp.", ".ffn."),
        (".ffn.ln", ".ffn.fc"),
        (".ln.", "."),
    ]
    return _table(config, rows, "head.", "head_dist.")


def _transformers(config: Any) -> list:
    rows = [
        ("levit.", ""),
        ("patch_embeddings.embedding_layer_{i}.convolution.", "stem.convs.{i-1}.conv."),
        ("patch_embeddings.embedding_layer_{i}.", "stem.convs.{i-1}."),
    ]
    for i, depth in enumerate(config.depths):
        places = [f"stages.{i}.blocks.{j}." for j in range(depth)] + [f"stages.{i + 1}.down."]
        for j, place in enumerate(places):
            old = f"encoder.stages.{i}.layers."
            rows += [(f"{old}{2 * j}.", f"{place}mixer."), (f"{old}{2 * j + 1}.", f"{place}ffn.")]
    rows += [
        (".module.", "."),
        (".queries_keys_values.", ".qkv."),
        (".keys_values.", ".kv."),
        (".queries.", ".q."),
        (".projection.", ".proj."),
        (".linear_up.", ".fc1."),
        (".linear_down.", ".fc2."),
    ]
    return _table(config, rows, "classifier.", "classifier_distill.")


TABLES = {"facebookresearch/LeViT": _facebook, "timm": _timm, "transformers": _transformers}


def widths(config: Any) -> list[tuple[str, str]]:
    """Return which axes of a LeViT's tensors share a width: neurons of its MLPs.

    Heads have one width of keys in the whole network, so that their channels are not cut.
    """
    rows = []
    for stage, depth in enumerate(config.depths):
        places = [f"stages.{stage}.down."] if stage else []
        places += [f"stages.{stage}.blocks.{n}." for n in range(depth)]
        for number, place in enumerate(places):
            width = f"hidden.{stage}.{number}"
            rows += [
                (place + "ffn.fc1.linear.weight", f"{width}, *"),
                (place + "ffn.fc1.norm.{leaf}", width),
                (place + "ffn.fc2.linear.weight", f"*, {width}"),
            ]
    for place in ("stages.{s}.blocks.{i}.", "stages.{s}.down."):
        leaves = "mixer.bias.table", "mixer.{part}.{of}.{leaf}", "ffn.fc2.norm.{leaf}"
        rows += [(place + leaf, "*") for leaf in leaves]
    still = "stem.convs.{i}.{part}.{leaf}", "head.{part}.{leaf}", "head.{which}.{part}.{leaf}"
    return [*rows, *((pattern, "*") for pattern in still)]
