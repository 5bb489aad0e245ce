"""Training in less memory: activations that are cheap to compute again are not kept.

Of a GELU both its input and its output are kept for the backward pass, since the layer behind it
needs the latter; likewise with other activations and with norms. Here only the input stays, and
the output is computed again when the backward pass asks for it: that is elementwise work, small
beside the products. Chen et al., 2016 (arXiv 1604.06174) drop whole blocks and compute them again,
products and all, as `Backbone.recompute` does; this drops what costs next to nothing.

It works on the graph that autograd records, by hooks on what it saves, so that no model knows of
it. What is made again has the same bits, since the same kernel made it: gradients do not change,
not even those of a maximum, which looks for its result in its input.

What autograd calls its nodes and what they keep is nothing that torch promises. So `trouble` tries
every kind on a small net before it is first used, and where one is amiss all is kept as ever.
"""

from __future__ import annotations

import copy
import functools
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Make = Callable[[], Tensor]

# Smaller tensors are not worth the bookkeeping.
LEAST_BYTES = 1 << 16


class Lean:
    """`with Lean(model)():` around a forward pass in eager mode keeps less for its backward pass,
    which may run outside. Nothing changes where no gradient is recorded, nor, but for a warning,
    where this torch does not say what is needed."""

    def __init__(self, model: nn.Module) -> None:
        norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
        # Autograd does not say a layer norm's eps.
        self.eps: dict[Any, float] = {
            norm.weight: norm.eps for norm in norms if norm.weight is not None
        }

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if trouble() is not None:
            yield
            return
        keeper = _Keeper(self.eps)
        try:
            with torch.autograd.graph.saved_tensors_hooks(keeper.pack, _unpack):
                yield
        finally:
            # The graph holds the hook, and so must not be held by it.
            keeper.again.clear()


class _Saved:
    """A tensor that autograd saves: itself, or how it is made again; `uses` are left of it.

    `version` counts changes in place until it was saved, after which there must be none. `number`
    is that of the node that made it, once it is made again and has no memory to be
    known by. Not the node itself: it may be the one that saves this.
    """

    __slots__ = ("__weakref__", "make", "number", "tensor", "uses", "version")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor: Tensor | None = tensor.detach()
        self.version = tensor._version
        self.make: Make | None = None
        self.number: int | None = None
        self.uses = 0


def _unpack(saved: _Saved | Tensor) -> Tensor:
    if isinstance(saved, Tensor):
        return saved
    if saved.tensor is not None:
        found = saved.tensor
        # Autograd looks for this itself, but not behind hooks.
        if saved.make is None and found._version != saved.version:
            raise RuntimeError(
                f"a tensor of shape {tuple(found.shape)} that the backward pass needs was changed "
                "in place after it was used: change a copy"
            )
    else:
        assert saved.make is not None
        with torch.no_grad():
            found = saved.make()
    saved.uses -= 1
    if saved.make is not None:
        # Others that saved the same tensor ask for it soon.
        saved.tensor = found if saved.uses > 0 else None
    return found


class _Keeper:
    """Decides for one forward pass what is kept."""

    def __init__(self, eps: Mapping[Any, float]) -> None:
        self.eps = eps
        self.known: weakref.WeakValueDictionary[Any, _Saved] = weakref.WeakValueDictionary()
        self.again: dict[Any, Make | None] = {}

    def pack(self, tensor: Tensor) -> _Saved | Tensor:
        if tensor.is_leaf and tensor.requires_grad:
            return tensor  # a parameter
        if not tensor.is_floating_point() or tensor.nbytes < LEAST_BYTES:
            return tensor.detach()
        base = tensor if tensor._base is None else tensor._base
        number = None if base.grad_fn is None else base.grad_fn._sequence_nr()
        place = (tensor.data_ptr(), tensor.size(), tensor.stride())
        saved = self.known.get(place)
        # Where it is kept its place is its own; else another tensor may have got that since.
        if saved is None or (saved.make is not None and saved.number != number):
            saved = self.known[place] = _Saved(tensor)
        saved.uses += 1
        # An activation may save its own result before its node is known, and the layer that
        # reads the result saves it once more.
        if saved.make is None and (make := self._makes(tensor, base)):
            saved.make, saved.number, saved.tensor = make, number, None
        return saved

    def _makes(self, tensor: Tensor, base: Tensor) -> Make | None:
        """Return how a tensor is made again, by way of the one that it is a view of or itself."""
        make = self._recipe(base.grad_fn)
        if make is None:
            return None
        size, stride, dtype = base.size(), base.stride(), base.dtype
        whole = tensor.size() == size and tensor.stride() == stride
        view = tensor.size(), tensor.stride(), tensor.storage_offset() - base.storage_offset()

        def again() -> Tensor:
            made = make().to(dtype)
            if made.stride() != stride:
                made = torch.empty_strided(size, stride, dtype=dtype, device=made.device).copy_(
                    made
                )
            return made if whole else made.as_strided(*view)

        return again

    def _recipe(self, node: Any) -> Make | None:
        """Return how a node's result is made again from what the graph keeps anyway."""
        if node is None:
            return None
        if node not in self.again:
            kind = node.name()
            if kind == "ReluBackward0":
                self.again[node] = self._relu(node.next_functions[0][0])
            elif kind == "NativeLayerNormBackward0":
                self.again[node] = self._layer_norm(node)
            elif kind == "NativeBatchNormBackward0":
                self.again[node] = _batch_norm(node)
            else:
                simple = _ACTIVATIONS.get(kind)
                self.again[node] = simple and (lambda: simple(node))
        return self.again[node]

    def _layer_norm(self, node: Any) -> Make | None:
        """Return how a LayerNorm's result is made again: its weight says which module's it is."""
        eps = self.eps.get(getattr(node.next_functions[1][0], "variable", None))
        if eps is None:
            return None
        return lambda: F.layer_norm(
            node._saved_input,
            node._saved_normalized_shape,
            node._saved_weight,
            node._saved_bias,
            eps,
        )

    def _relu(self, node: Any) -> Make | None:
        """Return how relu(norm(x)) is made again, or relu(norm(x) + y) where y is another norm's or
        a relu that is kept.

        The second is the end of a residual block. Where y is kept, this one need not be, and the
        next one is kept again, as it would otherwise be made through all blocks before.
        """
        if node is None:
            return None
        if node.name() == "AddBackward0" and node._saved_alpha == 1:
            terms = [self._term(before) for before, _ in node.next_functions]
            fresh = [make for make, new in terms if make and new]
            kept = [make for make, new in terms if make and not new]
            if len(fresh) + len(kept) == 2 and fresh:
                first, second = fresh + kept
                return lambda: first().add_(second()).relu_()
            return None
        norm = self._recipe(node) if node.name() == "NativeBatchNormBackward0" else None
        return norm and (lambda: norm().relu_())

    def _term(self, node: Any) -> tuple[Make | None, bool]:
        """Return how a summand is had, and whether as a tensor of its own."""
        if node is None:
            return None, False
        if node.name() == "NativeBatchNormBackward0":
            return self._recipe(node), True
        if node.name() == "ReluBackward0" and self._recipe(node) is None:
            return lambda: node._saved_result, False
        return None, False


def _batch_norm(node: Any) -> Make | None:
    """Return how the result of a norm is made again whose shift, which its node
    does not keep, is a parameter.
    """
    shift = node.next_functions[2][0]
    if not hasattr(shift, "variable"):
        return None

    def make() -> Tensor:
        mean, variance = None, None
        if not node._saved_training:
            mean, variance = node._saved_running_mean, node._saved_running_var
        # In training with the statistics of the batch, from the input once more: to go on from
        # those that were kept would round in another way.
        return F.batch_norm(
            node._saved_input, mean, variance, node._saved_weight, shift.variable,
            training=node._saved_training, eps=node._saved_eps,
        )  # fmt: skip

    return make


_ACTIVATIONS: dict[str, Callable[[Any], Tensor]] = {
    "GeluBackward0": lambda n: F.gelu(n._saved_self, approximate=n._saved_approximate),
    "SiluBackward0": lambda n: F.silu(n._saved_self),
    "HardswishBackward0": lambda n: F.hardswish(n._saved_self),
}


# ---- whether it works ------------------------------------------------------------------


@functools.cache
def trouble() -> str | None:
    """Return what keeps this version of torch from training lean, None where nothing does.

    Every kind of layer that is left out runs once with everything kept and once without: the
    gradients must be the same bits, and something must have been left out. Warns of trouble.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        for net in _samples():
            name = " and ".join(type(layer).__name__ for layer in net.modules() if layer is not net)
            try:
                fault = _fault(net)
            except Exception as error:
                # Whatever a name that is not there any more leads to.
                fault = f"{type(error).__name__}: {error}"
            if fault:
                said = f"{name}, torch {torch.__version__}: {fault}"
                warnings.warn(
                    f"training keeps all activations and takes more memory ({said})", stacklevel=2
                )
                return said
    return None


class _Residual(nn.Module):
    """relu(norm(x) + x), as a residual block ends."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.act = nn.BatchNorm1d(256), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x) + self.norm(-x))


def _samples() -> Sequence[nn.Module]:
    return [
        nn.Sequential(nn.Linear(256, 256), layer, nn.Linear(256, 256))
        for layer in (nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.LayerNorm(256), nn.BatchNorm1d(256))
    ] + [nn.Sequential(nn.Linear(256, 256), _Residual(), nn.Linear(256, 256))]


def _fault(net: nn.Module) -> str | None:
    """Return what is wrong with a net's gradients when less is kept."""
    images, found = torch.randn(80, 256), []
    keeper = _Keeper(Lean(net).eps)
    left_out = 0

    def pack(tensor: Tensor) -> _Saved | Tensor:
        nonlocal left_out
        saved = keeper.pack(tensor)
        left_out += isinstance(saved, _Saved) and saved.tensor is None
        return saved

    for hooks in (None, pack):
        twin = copy.deepcopy(net)
        keeper.eps = Lean(twin).eps
        if hooks is None:
            result = twin(images)
        else:
            with torch.autograd.graph.saved_tensors_hooks(hooks, _unpack):
                result = twin(images)
            keeper.again.clear()
        result.square().sum().backward()
        found.append([parameter.grad for parameter in twin.parameters()])
    if not left_out:
        return "nothing is left out"
    same = all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    return None if same else "the gradients differ"
