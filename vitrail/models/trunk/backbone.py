"""What all models share: levels, two trunks, and the shape of a variant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.protocols import Restores
from vitrail.layers.residual import Blocks

InputKind = Literal["images", "clips", "series", "pairs", "triples", "scans", "waves"]


class Config(Protocol):
    """What every family's `Config` has, beside sizes of its own."""

    @property
    def image(self) -> tuple[int, int]: ...
    @property
    def channels(self) -> int: ...
    @property
    def classes(self) -> int: ...
    @property
    def drop_path(self) -> float: ...


class Level(NamedTuple):
    """One resolution of a backbone: pixels of the image per position, channels, and of clips
    the frames per position."""

    stride: int
    channels: int
    time: int = 1


class Inputs(NamedTuple):
    """What published weights take: mean and deviation for each channel of values from 0 to 1, the
    share of the side that a crop keeps, and how images are resized."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    interpolation: str


IMAGENET = Inputs((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.875, "bicubic")
HALF = Inputs((0.5,) * 3, (0.5,) * 3, 0.875, "bicubic")


@dataclass(frozen=True)
class Variant:
    """A published model: its config and what its authors report of it.

    `params_m` in 10^6 parameters, `flops_g` in 10^9 multiply-adds at the config's image
    size, `top1` in per cent of ImageNet-1k, `hub` from a name table's key to a Hugging Face
    Hub reference of published weights, which take images as `takes` says. `note` says why a
    figure of ours differs.
    """

    config: Any
    params_m: float | None = field(default=None, kw_only=True)
    flops_g: float | None = field(default=None, kw_only=True)
    top1: float | None = field(default=None, kw_only=True)
    hub: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    takes: Inputs | None = field(default=None, kw_only=True)
    note: str = field(default="", kw_only=True)
    name: str = field(default="", kw_only=True)
    family: str = field(default="", kw_only=True)

    @property
    def mean(self) -> tuple[float, ...]:
        """Return the mean that is taken from each channel of the image, of values from 0 to 1."""
        return (self.takes or IMAGENET).mean

    @property
    def std(self) -> tuple[float, ...]:
        """Return the deviation by which each channel is divided then."""
        return (self.takes or IMAGENET).std

    @property
    def crop_pct(self) -> float:
        """Return the share of the shorter side that the published evaluation's crop keeps."""
        return (self.takes or IMAGENET).crop_pct

    @property
    def interpolation(self) -> str:
        """Return how the published evaluation resizes images."""
        return (self.takes or IMAGENET).interpolation


@dataclass(frozen=True)
class Small:
    """A search space of small models: `base` with every combination of `choices`.

    A key is a field's name, or several names whose values change together.
    """

    base: Any
    choices: Mapping[str | tuple[str, ...], Sequence[Any]]

    def configs(self, *, image: tuple[int, int], channels: int, classes: int) -> Iterator[Any]:
        """Yield all configs of the space for the given images, in a fixed order."""
        base = sized(self.base, image=image, channels=channels, classes=classes)
        for values in product(*self.choices.values()):
            changes: dict[str, Any] = {}
            for key, value in zip(self.choices, values, strict=True):
                changes.update(
                    {key: value} if isinstance(key, str) else zip(key, value, strict=True)
                )
            yield replace(base, **changes)


class Backbone(nn.Module):
    """An image (B, channels, H, W) to logits (B, classes), with its maps on the way.

    Subclasses set `config`, `levels`, `width` and `head` and write `features` and
    `embedding`. `head` maps (B, width) to (B, classes) and may be replaced.
    """

    config: Any
    levels: tuple[Level, ...]
    width: int
    head: nn.Module
    undecayed: ClassVar[tuple[str, ...]] = ()  # ends of names of tables and tokens

    def features(
        self, image: Float[Tensor, "b channels h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return maps (B, h, w, C) of the levels, finest first; `at` picks some by index."""
        raise NotImplementedError

    def embedding(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b width"]:
        """Return what the head sees: (B, width)."""
        raise NotImplementedError

    def forward(self, image: Float[Tensor, "b channels *s"]) -> Tensor | tuple[Tensor, Tensor]:
        return self.head(self.embedding(image))

    def recompute(self, on: bool = True) -> Backbone:
        """Switch gradient checkpointing of all blocks on or off; gradients stay the same.

        A BatchNorm sees each batch twice, so its running statistics follow faster.
        """
        for module in self.modules():
            if isinstance(module, Blocks):
                module.recompute = on
        return self

    def no_decay(self) -> set[str]:
        """Return the parameters that take no weight decay, beside those of one axis."""
        return {n for n, _ in self.named_parameters() if n.endswith(self.undecayed)}

    @property
    def depth(self) -> int:
        """Return the layer-wise depth of the head: the stem's is 0, block n's is n + 1."""
        return sum(self._block_counts().values()) + 1

    def depth_of(self, name: str) -> int:
        """Return how deep the parameter `name` lies, for layer-wise learning rates."""
        counts, before = self._block_counts(), 0
        for prefix, count in counts.items():
            if name.startswith(f"{prefix}blocks."):
                return before + int(name[len(prefix) :].split(".")[1]) + 1
            if prefix and name.startswith(prefix):
                return before + 1  # what leads into a stage moves with its first block
            before += count
        tail = ("norm.", "pool.", "head.", "pre_logits.")
        return before + 1 if name.startswith(tail) else 0

    def _block_counts(self) -> dict[str, int]:
        """Count the blocks under each prefix: {"": n} or {"stages.0.":
        n0, "stages.1.": n1, ...}.
        """
        stages = getattr(self, "stages", None)
        if stages is None:
            return {"": len(self.get_submodule("blocks"))}  # pyright: ignore[reportArgumentType]
        return {f"stages.{i}.": len(stage.blocks) for i, stage in enumerate(stages)}


class Stage(nn.Module):
    """What leads into a resolution, then blocks at it: (B, h, w, C) to (B, h', w', C')."""

    def __init__(self, down: nn.Module, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.down = down
        self.blocks = Blocks(blocks)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        return self.blocks(self.down(x))


class Pyramid(Backbone):
    """Stem, stages of falling resolution, norm, pool, head.

    `stem` maps (B, channels, H, W) to (B, h, w, C), each stage (B, h, w, C) to the next
    level, `norm` keeps the shape and `pool` gives (B, width).
    """

    def __init__(
        self,
        config: Any,
        *,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        norm: nn.Module,
        pool: nn.Module,
        head: nn.Module,
        levels: Sequence[Level],
    ) -> None:
        super().__init__()
        self.config = config
        self.stem, self.stages = stem, nn.ModuleList(stages)
        self.norm, self.pool, self.head = norm, pool, head
        self.levels, self.width = tuple(levels), levels[-1].channels

    def features(
        self, image: Float[Tensor, "b channels h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        maps, x = [], self.stem(image)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps if at is None else [maps[i] for i in at]

    def embedding(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b width"]:
        return self.pool(self.norm(self.features(image)[-1]))


class Isotropic(Backbone):
    """Tokens of one resolution: embed, blocks, norm, pool, head.

    `embed` maps (B, channels, H, W) to (B, prefix + h w, C), prefix tokens first, or to a map
    (B, h, w, C), and has `grid(H, W) -> (h, w)`; every block keeps the shape; `pool` gives
    (B, width).
    """

    def __init__(
        self,
        config: Any,
        *,
        embed: nn.Module,
        blocks: Sequence[nn.Module],
        norm: nn.Module,
        pool: nn.Module,
        head: nn.Module,
        levels: Sequence[Level],
    ) -> None:
        super().__init__()
        self.config = config
        self.embed, self.blocks = embed, Blocks(blocks)
        self.norm, self.pool, self.head = norm, pool, head
        self.levels, self.width = tuple(levels), levels[-1].channels

    def tokens(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b *n c"]:
        """Return all tokens after the last block and the norm, prefix first."""
        return self.norm(self.blocks(self.embed(image)))

    def features(
        self, image: Float[Tensor, "b channels h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the last block's map after the norm, or those after the blocks `at`, unnormed."""
        h, w = self.embed.grid(*image.shape[-2:])  # pyright: ignore[reportCallIssue]
        if at is None:
            return [self._map(self.tokens(image), h, w)]
        kept, x = {}, self.embed(image)
        for j, block in enumerate(self.blocks):
            x = self.blocks.run(block, x)
            kept[j] = x
        return [self._map(kept[j], h, w) for j in at]

    def embedding(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b width"]:
        return self.pool(self.tokens(image))

    def _map(self, tokens: Tensor, h: int, w: int) -> Tensor:
        """Turn (B, prefix + h w, C) into (B, h, w, C); what is a map stays one."""
        if tokens.ndim == 4:
            return tokens
        if isinstance(self.embed, Restores):
            tokens = self.embed.restored(tokens)
        return tokens[:, tokens.shape[1] - h * w :].unflatten(1, (h, w))


def input_kind(config: Any) -> InputKind:
    """Return what a model takes: "images", unless its Config has an `input_kind` of its own."""
    return getattr(config, "input_kind", "images")


def input_shape(config: Any) -> tuple[int, ...]:
    """Return the shape of what a model takes, without the batch: of images (channels, H, W), of
    clips (channels, T, H, W), of series (T, features), of pairs that of their images, of triples
    that of their clips, of scans that of their range images, of waves (1, samples)."""
    kind = input_kind(config)
    if kind == "waves":
        return config.channels, config.samples
    if kind == "series":
        return config.length, config.features
    frames = (config.frames,) if kind in ("clips", "triples") else ()
    return (config.channels, *frames, *config.image)


def input_words(config: Any) -> str:
    """Return what a model takes in words: "224x224 images", "16x224x224 clips", "64x2 series"."""
    kind, shape = input_kind(config), input_shape(config)
    return f"{'x'.join(map(str, shape if kind == 'series' else shape[1:]))} {kind}"


def sized(config: Any, *, classes: int, channels: int, image: tuple[int, int] | None = None) -> Any:
    """Return a config for other data; of series `channels` are features, `image` is (steps, 1), of
    waves (1, samples), and networks with a tower for words tell no `classes`."""
    if input_kind(config) == "pairs":
        return config
    if input_kind(config) == "series":
        length = {} if image is None else {"length": image[0]}
        return replace(config, classes=classes, features=channels, **length)
    if input_kind(config) == "waves":
        samples = {} if image is None else {"samples": image[1]}
        return replace(config, classes=classes, channels=channels, **samples)
    if input_kind(config) == "triples":
        sides = {} if image is None else {"image": image}
        return replace(config, inputs=replace(config.inputs, channels=channels, **sides))
    sides = {} if image is None else {"image": image}
    return replace(config, classes=classes, channels=channels, **sides)


def check_image(image: Tensor, config: Any, family: str) -> None:
    """Raise ValueError unless the image, or the clip where the config has frames, is one that
    `input_shape` tells, with any sides.
    """
    axes = ("T", "H", "W")[4 - len(input_shape(config)) :]
    if image.ndim == 2 + len(axes) and image.shape[1] == config.channels:
        return
    remedy = f"build it with channels={image.shape[1] if image.ndim > 3 else 3} or convert"
    if image.ndim in (4, 5) and image.ndim != 2 + len(axes):
        found, other = ("an image", "clips") if len(axes) == 3 else ("a clip", "images")
        remedy = f"that is {found}; this is a model of {other}, take the other kind"
    raise ValueError(
        f"input is {tuple(image.shape)}; this {family} takes "
        f"(B, {config.channels}, {', '.join(axes)}): {remedy}"
    )
