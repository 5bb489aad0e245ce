"""One variant against its peers: the same weights, the same run, taking turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

import vitrail
from vitrail.bench import peers, steps
from vitrail.errors import BenchError, CheckpointError
from vitrail.layers.fold import deploy
from vitrail.measure.counts import counts
from vitrail.measure.latency import ratio, summary, threads_set, turns
from vitrail.measure.machine import cores
from vitrail.measure.memory import peak_bytes
from vitrail.measure.peak import product
from vitrail.models import catalog, resolve
from vitrail.models.trunk.backbone import Backbone, input_shape
from vitrail.report.speed import Entry, Ratio, Row
from vitrail.units import counted

Mode = Literal["inference", "training"]
# Logits of the same weights may differ by so much of what two images' differ by.
SAME = 1e-3
PRODUCT = "matrix product"


@dataclass(frozen=True)
class Settings:
    """Settings of a contest.

    `against` names libraries, none to measure ours alone; `threads` None means all cores;
    `seconds` are measured for each contestant and batch; `image` None means the published size.
    """

    mode: Mode = "inference"
    batches: tuple[int, ...] = (1, 8)
    against: tuple[str, ...] = peers.LIBRARIES
    dtype: Literal["fp32", "bf16"] = "fp32"
    compiled: bool = False
    device: str = "cpu"
    threads: int | None = None
    seconds: float = 2.0
    image: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise BenchError(f"batches {self.batches}: give sizes of 1 or more, e.g. 1,8")
        if unknown := [who for who in self.against if who not in peers.LIBRARIES]:
            raise BenchError(
                f"peer {unknown[0]!r} is unknown: known are {', '.join(peers.LIBRARIES)}"
            )
        if self.threads is not None and not 1 <= self.threads <= cores():
            raise BenchError(
                f"--threads is {self.threads}, but this process may use "
                f"{counted(cores(), 'core')}: give 1 to {cores()}"
            )
        _check_device(self.device)

    @property
    def torch_dtype(self) -> torch.dtype:
        """Return the dtype of weights and images in inference; training has fp32 and autocast."""
        bf16 = self.dtype == "bf16" and self.mode == "inference"
        return torch.bfloat16 if bf16 else torch.float32


def contest(name: str, settings: Settings) -> list[Row]:
    """Measure one variant: a row for each batch size, with a note for each peer that is missing.

    Raises ConfigError for an unknown name, BenchError for anything else that cannot be measured.
    """
    resolve(name)  # says which name was meant
    torch.manual_seed(0)
    with threads_set(settings.threads):
        models, notes = contestants(name, settings)
        return [_row(name, models, notes, batch, settings) for batch in settings.batches]


def contestants(name: str, settings: Settings) -> tuple[dict[str, nn.Module], tuple[str, ...]]:
    """Return all models, ours first, each proved equal to it, and notes on missing peers."""
    config = catalog()[name].config
    if settings.image is not None:
        config = resolve(config, image=settings.image)
    ours, others, notes = _matched(name, settings)
    if ours is None:
        ours = peers.scattered(vitrail.create(config))
    models: dict[str, nn.Module] = {"vitrail": ours}
    if settings.mode == "inference":
        models["folded"] = deploy(ours)
    models |= others
    models = {who: m.to(settings.device, settings.torch_dtype) for who, m in models.items()}
    if settings.compiled:
        more, failed = _all_compiled(models, input_shape(config), settings)
        models, notes = models | more, notes + failed
    return models, notes


def _all_compiled(
    models: Mapping[str, nn.Module], shape: tuple[int, ...], settings: Settings
) -> tuple[dict[str, nn.Module], tuple[str, ...]]:
    """Compile each model; returns them, and notes on those that cannot be compiled."""
    found, failed = {}, []
    x = torch.randn(1, *shape, device=settings.device, dtype=settings.torch_dtype)
    for who, model in models.items():
        # Of ours the folded form is what one would compile.
        if who == "vitrail" and "folded" in models:
            continue
        compiled = torch.compile(model, dynamic=False)
        try:
            with torch.inference_mode():
                compiled(x)
        except Exception as error:  # whatever a compiler may raise
            reason = str(error).strip().splitlines() or [""]
            failed.append(f"torch.compile fails on {who}: {type(error).__name__}: {reason[0]}")
        else:
            found[f"{who} compiled"] = compiled
    return found, tuple(failed)


def _matched(
    name: str, settings: Settings
) -> tuple[nn.Module | None, dict[str, nn.Module], tuple[str, ...]]:
    """Return our model with a peer's weights, the peers with the same weights, and notes.

    Every peer has weights of its own; time does not depend on them.
    """
    known = peers.known(name)
    if settings.image is not None:
        return None, {}, ("at another image size there is no comparison with peers",)
    if not known:
        return None, {}, ("no peer has this model: measured alone",)
    ours, others, notes = None, {}, []
    for who, make in known.items():
        if who not in settings.against:
            continue
        try:
            other = peers.build(who, make, input_shape(catalog()[name].config))
            mine = vitrail.load(name, other.state_dict(), source=who)
            if (gap := _gap(mine, other)) > SAME:
                notes.append(
                    f"{who} computes something else, by {gap:.1g} of what images differ by"
                )
                continue
        except BenchError as error:
            notes.append(str(error))
        except CheckpointError as error:
            notes.append(f"{who} has other tensors: {error}")
        else:
            ours, others[who] = mine, other
    return ours, others, tuple(notes)


@torch.inference_mode()
def _gap(ours: Backbone, peer: nn.Module) -> float:
    """Return the largest difference of logits, relative to that of our own between two images."""
    x = torch.randn(2, *input_shape(ours.config))
    mine, theirs = ours(x), peers.logits(peer(x))
    return float((mine - theirs).abs().max() / (mine[0] - mine[1]).abs().max())


def _row(
    name: str,
    models: Mapping[str, nn.Module],
    notes: Sequence[str],
    batch: int,
    settings: Settings,
) -> Row:
    variant = catalog()[name]
    config = next(m for m in models.values()).config
    shape, device = input_shape(config), settings.device
    images = torch.randn(batch, *shape, device=device, dtype=settings.torch_dtype)
    calls = {who: _call(who, model, images, settings) for who, model in models.items()}
    multiply, operations = product(_product_dtype(settings), device)
    calls[PRODUCT] = lambda: (multiply(), steps.wait(torch.device(device)))
    spent = dict(zip(calls, turns(list(calls.values()), seconds=settings.seconds), strict=True))
    product_flops = operations / summary(spent.pop(PRODUCT)).p50_s
    macs, params = _counted(config)
    # Backward computes gradients of weights and of inputs: twice the forward's operations.
    work = 2.0 * macs * batch * (3 if settings.mode == "training" else 1)
    entries = []
    for who, times in spent.items():
        latency = summary(times)
        entries.append(
            Entry(
                who,
                latency.p50_s,
                latency.p90_s,
                latency.n,
                batch / latency.p50_s,
                work / latency.p50_s / product_flops,
                peak_bytes(calls[who], device),
            )
        )
    return Row(
        name, variant.family, settings.mode, batch, tuple(shape[1:]), params, macs, variant.top1,
        product_flops, tuple(entries), tuple(_ratios(spent)), tuple(notes), _compiled(spent),
    )  # fmt: skip


def _call(who: str, model: nn.Module, images: torch.Tensor, settings: Settings) -> steps.Call:
    if settings.mode == "inference":
        return steps.forward(model, images)
    labels = torch.arange(len(images), device=images.device) % 7
    ours = who.partition(" ")[0] == "vitrail"
    make = steps.training if ours else steps.peer_training
    return make(model, images, labels, bf16=settings.dtype == "bf16")


def _ratios(spent: Mapping[str, Sequence[float]]) -> list[Ratio]:
    """Compare ours with the fastest peer: compiled forms with compiled ones, if there are any."""
    rivals = [who for who in spent if who.partition(" ")[0] in peers.LIBRARIES]
    if not rivals:
        return []
    found = []
    for who in spent:
        if who in rivals:
            continue
        kind = [r for r in rivals if r.endswith("compiled") == who.endswith("compiled")] or rivals
        peer = min(kind, key=lambda r: summary(spent[r]).p50_s)
        found.append(Ratio(who, peer, *ratio(spent[peer], spent[who])))
    return found


def _compiled(spent: Mapping[str, Sequence[float]]) -> Ratio | None:
    """Compare our compiled form with the deployed form that it was made of."""
    for who in ("folded", "vitrail"):
        after = f"{who} compiled"
        if after in spent:
            return Ratio(after, who, *ratio(spent[who], spent[after]))
    return None


def _counted(config: Any) -> tuple[int, int]:
    with torch.device("meta"):
        model = vitrail.create(config)
    shape = input_shape(config)
    found = counts(model, shape[1:], shape[0])
    return found.macs, found.params


def _product_dtype(settings: Settings) -> torch.dtype:
    return torch.bfloat16 if settings.dtype == "bf16" else torch.float32


def _check_device(device: str) -> None:
    kind = device.partition(":")[0]
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if kind not in there:
        raise BenchError(f"device {device!r} is unknown: give cpu, cuda or mps")
    if not there[kind]:
        raise BenchError(f"device {device!r} is not available: torch finds none; give --device cpu")
