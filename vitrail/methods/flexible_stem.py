"""A stem whose patch size may be chosen, made of a model's own stem from outside.

The convolution that meets the image is computed here, with its kernel PI-resized and its stride and
padding scaled; what follows in the stem then runs as it would on an image of fewer or more pixels
that has as many patches of the model's own size. So no family needs to know of it. Positions of the
stem are resampled by an antialiased triangle.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from vitrail.layers.conv import Conv, Conv2d, channels_last
from vitrail.layers.flexible import Flexible
from vitrail.layers.fold import deploy
from vitrail.layers.pi_resize import Size
from vitrail.layers.position import triangle_grid
from vitrail.models import module_of, resolve
from vitrail.models.trunk.backbone import Isotropic
from vitrail.models.trunk.catalog import skeleton
from vitrail.models.trunk.positions import Table, rows

SEAMS = ("embed", "stem", "stages.0.down")


class Place(NamedTuple):
    """Where a model meets its image: the seam's name in the bare model, its class, and the pixels
    per token of what it gives."""

    seam: str
    kind: type[nn.Module]
    patch: int


def place(config: Any) -> Place | None:
    """Find where the model of a config cuts its image by a convolution; None where it does not.

    Of a model that reads tokens it may be one of several in its stem, of a pyramid it must make
    the first map alone.
    """
    model = skeleton(config)
    stride = model.levels[0].stride
    for seam in SEAMS:
        try:
            stem = model.get_submodule(seam)
        except AttributeError:
            continue
        found = first_convolution(stem, config.channels)
        if found is None:
            return None
        whole = found[1].stride == (stride, stride)
        return Place(seam, type(stem), stride) if whole or isinstance(model, Isotropic) else None
    return None


def first_convolution(stem: nn.Module, channels: int) -> tuple[str, nn.Conv2d] | None:
    """Return the name and module of the convolution that sees the image, if nothing else comes with
    it but what its `after` says.
    """
    for name, module in stem.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == channels:
            plain = type(module) in (nn.Conv2d, Conv2d, Conv) or hasattr(module, "after")
            simple = module.groups == 1 and module.padding_mode == "zeros"
            square = len({*module.kernel_size}) == len({*module.stride}) == 1
            whole = not isinstance(module.padding, str) and len({*module.padding}) == 1
            return (name, module) if name and plain and simple and square and whole else None
    return None


class Geometry(NamedTuple):
    """Kernel, stride and padding of a convolution, each the same down and across."""

    kernel: int
    stride: int
    padding: int


def geometry(conv: nn.Conv2d, own: int, patch: int) -> Geometry | None:
    """Return a convolution's geometry for patches of `patch` pixels in place of `own`: all three
    are scaled, and None where one of them would be no whole number.
    """
    scale = Fraction(patch, own)
    numbers = (conv.kernel_size[0], conv.stride[0], int(conv.padding[0]))
    scaled = [number * scale for number in numbers]
    return None if any(s.denominator > 1 for s in scaled) else Geometry(*map(int, scaled))


class Given(nn.Module):
    """Stands where a convolution was and answers with a map that was computed elsewhere."""

    value: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.register_buffer("value", torch.empty(0, device="meta"), persistent=False)
        self.last = isinstance(conv, Conv)
        self.after = getattr(type(conv), "after", None)

    def forward(self, x: Tensor) -> Tensor:
        found = self.value if self.after is None else self.after(self.value)
        return channels_last(found) if self.last else found

    def then(self, x: Tensor, act: nn.Module) -> Tensor:
        """Return act of the map, as `Conv2d.then`."""
        return act(self(x))


class FlexibleStem(Flexible):
    """A model's stem at any patch size: images (B, channels, H, W) to what the stem gives for
    H / patch x W / patch patches. At its own size it is the stem itself."""

    def __init__(self, stem: nn.Module, config: Any, at: Place) -> None:
        super().__init__()
        self.stem, self.config, self.own, self.seam = stem, config, at.patch, at.seam
        self._folded = False
        self._rests: dict[Size, tuple[nn.Module, Any]] = {}

    def grid(self, height: int, width: int) -> Size:
        """Return the patches down and across of an image; raise ValueError unless they fit."""
        stem: Any = self.stem
        if self.patch == self.own:
            return stem.grid(height, width)
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"image is {height}x{width}; patches of {self.patch} pixels need multiples of "
                f"{self.patch}: choose another patch or resize"
            )
        return height // self.patch, width // self.patch

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Any:
        if self.patch == self.own:
            return self.stem(image)
        rows_down, across = self.grid(*image.shape[-2:])
        size = (rows_down * self.own, across * self.own)
        name, conv = self._convolution()
        shape = geometry(conv, self.own, self.patch)
        assert shape is not None  # `choose` and `draw` take no others
        kernel = self._kernel(conv.weight, (shape.kernel, shape.kernel))
        value = F.conv2d(image, kernel, conv.bias, shape.stride, shape.padding)
        rest, config = self._rest(size, name)
        tensors = {**self._tensors(name, config), f"{name}.value": value}
        # Only its shape is looked at, since nothing but the convolution sees an image.
        blank = image.new_zeros(()).expand(*image.shape[:-2], *size)
        return functional_call(rest, tensors, (blank,))

    def require_tables(self, size: Size) -> None:
        """Raise ValueError where a table of positions cannot move to images of `size`, and
        ConfigError where the model cannot be made for them."""
        config = resolve(self.config, image=size)
        skeleton(config)
        for table in rows(config, module_of(config)):
            for name, value in skeleton(self.config).state_dict().items():
                if (numbers := table.numbers(name)) is not None:
                    table.moved(value, *(table.grid(c, *numbers) for c in (self.config, config)))

    def deployed(self) -> FlexibleStem:
        """Return the same around what the stem was folded to."""
        self._folded, self._rests = True, {}
        self._prepare()
        return self

    def choose(self, patch: int) -> None:
        """Cut patches of this size from now on."""
        super().choose(patch)
        self._prepare()

    def _prepare(self) -> None:
        """Make now what images of the config's size need: an export cannot."""
        h, w = self.config.image
        if self.patch != self.own and h % self.patch == w % self.patch == 0:
            size = (h // self.patch * self.own, w // self.patch * self.own)
            self._rest(size, self._convolution()[0])

    def _convolution(self) -> tuple[str, nn.Conv2d]:
        found = first_convolution(self.stem, self.config.channels)
        assert found is not None
        return found

    def _sources(self) -> Iterable[Tensor]:
        return self.stem.parameters()

    def _rest(self, size: Size, name: str) -> tuple[nn.Module, Any]:
        """Return the stem without its convolution and without weights, as
        made for images of `size`.
        """
        if size not in self._rests:
            if len(self._rests) >= self.room:
                self._rests.clear()
            config = resolve(self.config, image=size)
            stem = deepcopy(skeleton(config).get_submodule(self.seam))
            stem = deploy(stem) if self._folded else stem
            stem.set_submodule(name, Given(self._convolution()[1]))
            self._rests[size] = stem, config
        rest, config = self._rests[size]
        return rest.train(self.stem.training), config

    def _tensors(self, name: str, config: Any) -> dict[str, Tensor]:
        """Return all that the stem has beside its convolution, its
        positions moved to another image.
        """
        held = {**dict(self.stem.named_parameters()), **dict(self.stem.named_buffers())}
        held = {n: v for n, v in held.items() if not n.startswith(f"{name}.")}
        place = ("positions", config.image)
        return held | self._kept_or(lambda: self._moved(held, config), place)

    def _moved(self, held: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
        found = {}
        for table in rows(config, module_of(config)):
            for name, value in held.items():
                numbers = table.numbers(f"{self.seam}.{name}")
                if numbers is not None:
                    old, new = (table.grid(c, *numbers) for c in (self.config, config))
                    found[name] = _learned(table, value).moved(value, old, new)
        return found


def _learned(table: Table, value: Tensor) -> Table:
    """Return a row whose table moves by the triangle if it is learned; a sinusoid is made anew."""
    learned = isinstance(value, nn.Parameter) and table.axes == (1,)
    return replace(table, zoom=triangle_grid) if learned else table
