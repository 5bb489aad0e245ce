"""ONNX: uint8 images in, calibrated probabilities out, accepted only if it computes the same.

The graph resizes, normalises and brings channels forward itself, so whoever runs it needs no
statistics and may give images of any size. Its Resize agrees with `data.decode.resize`, the one
that training saw, to 1 of 255, which every export checks; where it does not, resizing stays
outside and the file takes images of the model's size only. Agreement needs `exclude_outside`:
without it ONNX Runtime counts pixels beyond the border and departs by up to 20 of 255. It also
needs floats and one rounding at the end: on uint8 it rounds twice, and differs by 2 at times.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vitrail import __version__, digests, files
from vitrail.data.decode import resize
from vitrail.data.labels import Labels
from vitrail.data.parallel import bar
from vitrail.engines import box_agreement, boxes, masks, sealed
from vitrail.engines.front import front, prepend, save_front
from vitrail.engines.served import Agree, same_answers
from vitrail.engines.served import serve as served
from vitrail.engines.surest import translations
from vitrail.errors import ExportError, RunError
from vitrail.layers.binary import BinaryConv2d
from vitrail.measure.session import session
from vitrail.units import counted

TOLERANCE = 1e-4
# The share of images that a network of signs may answer otherwise in another runtime; of 256 images
# one was, for a network of three cells.
TURNED = 0.02
# How a departure is told from a wrong file: inputs are changed by so much, so many times.
ROUNDING, DRAWS = 1e-6, 16
# So many images are compared, or all where there are fewer.
ENOUGH = 256
BATCH = 32


@dataclass(frozen=True)
class Exported:
    """An accepted file: its size, and the comparison on `n` images that it passed.

    `images` says what they were; `resize_inside` whether the file takes images of any size.
    """

    path: Path
    size_bytes: int
    n: int
    max_logit_difference: float
    resize_inside: bool
    images: str


def export_onnx(
    model: nn.Module,
    labels: Labels,
    path: str | os.PathLike,
    *,
    images: np.ndarray,
    config: Mapping[str, Any] | None = None,
    described: str = "held-back images",
    progress: bool = False,
    serve: Callable[[nn.Module, Labels], nn.Module] = served,
    agree: Agree = same_answers,
) -> Exported:
    """Write the model as ONNX and compare it with the original, in eval mode, on `images`.

    `images` are uint8 (N, H, W, C), held back from training, at the model's size; `described`
    says what they are; `config` is the model's in JSON, which the file keeps. `serve` makes the
    module that is written, `agree` compares its last output with the model's. Raises ExportError,
    and leaves what was at `path`, when torch cannot export the model, when there are no images,
    when the answer differs for any, or a logit by 1e-4 or more; of a network of signs where either
    is so for more than one image in fifty.
    """
    path = Path(path)
    if not len(images):
        raise ExportError(
            f"{path} cannot be checked, for there are no {described} to be compared on: "
            "give at least one"
        )
    tie = digests.of_model(model.state_dict(), labels)
    try:
        with (
            bar("exporting", len(images), shown=progress) as advance,
            files.replacing(path) as part,
        ):
            inside = _write(serve(model.eval(), labels).eval(), labels, config, tie, part)
            if labels.maps:
                largest = masks.compare(model, labels, part, images, advance)
            elif labels.boxes:
                largest = box_agreement.compare(model, labels, part, images, advance)
            else:
                largest = compare(model, labels, _logits(part), images, advance, agree)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({files.reason(error)}): free some space, then do it again"
        ) from error
    return Exported(path, path.stat().st_size, len(images), largest, inside, described)


def _write(
    served: nn.Module, labels: Labels, config: Mapping[str, Any] | None, tie: str, path: Path
) -> bool:
    """Write the file, tied to its weights and labels; returns whether it resizes images itself."""
    import onnx

    try:
        with quiet():
            program = torch.onnx.export(
                served,
                (served.example(),),  # pyright: ignore
                dynamo=True,
                input_names=[served.entry],  # pyright: ignore
                output_names=list(served.outputs),  # pyright: ignore
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                custom_translation_table=dict(translations()),
                verbose=False,
            )
    except Exception as error:
        # The exporter raises whatever an operator made it stumble over.
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"the model cannot be exported to ONNX: {first}") from error
    proto = program.model_proto  # pyright: ignore[reportOptionalMemberAccess]
    inside = False
    if labels.takes == "images":  # others come in the model's own size, and are normalised inside
        inside = resize_agrees(labels, path, opsets=proto.opset_import)
        prepend(front(labels, inside=inside), proto.graph)
    if labels.maps:
        masks.append(proto.graph, labels)
    if labels.boxes:
        boxes.append(proto.graph)
    facts = labels.to_json() | {
        "config": dict(config or {}),
        "resize": "inside" if inside else "outside",
        "vitrail": __version__,
        sealed.TIE: tie,
    }
    sealed.strip(proto)
    onnx.helper.set_model_props(
        proto, {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}
    )
    sealed.write(path, proto.SerializeToString())
    return inside


def resize_agrees(labels: Labels, path: Path, *, opsets: Sequence[Any]) -> bool:
    """Return whether the graph's Resize agrees with `data.decode.resize` to 1 of 255.

    At the model's own size it must return the image itself. Tried on noise and smooth images,
    smaller and larger; `path` is overwritten.
    """
    save_front(labels, path, opsets)
    running = session(path)
    random = np.random.default_rng(0)
    height, width = labels.image
    sizes = [(height, width), (2 * height + 1, width + 3), (height // 2 + 1, 3 * width), (9, 7)]
    for h, w in sizes:
        noise = random.integers(0, 256, (1, h, w, labels.channels), dtype=np.uint8)
        for image in (noise, resize(noise[:, : h // 4 + 1, : w // 4 + 1], (h, w))):
            expected = resize(image, labels.image).transpose(0, 3, 1, 2).astype(np.float32)
            (found,) = running.run(["pixels"], {"images": image})
            if np.abs(found - expected).max() > int((h, w) != (height, width)):  # pyright: ignore[reportOperatorIssue]
                return False
    return True


def _logits(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that answers with the file in ONNX Runtime. Raises ExportError."""
    try:
        running = session(path)
    except RunError as error:
        raise ExportError(f"ONNX Runtime refuses the exported model: {error.__cause__}") from error
    entry = running.get_inputs()[0].name
    return lambda images: np.asarray(running.run(["logits"], {entry: images})[0])


def compare(
    model: nn.Module,
    labels: Labels,
    logits: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    advance: Callable[[int], None],
    agree: Agree = same_answers,
) -> float:
    """Return the largest difference of a logit between the model and an exported file.

    `logits` answers with the file. Raises ExportError when the difference is 1e-4 or more, or an
    answer differs. In a network of signs one number within rounding of zero turns a sign and all
    behind it, in any two runtimes, so there one image in fifty may depart, if changes of its
    pixels as small as rounding do the same to the model itself.
    """
    if any(isinstance(module, BinaryConv2d) for module in model.modules()):
        return _of_signs(model, labels, logits, images, advance, agree)
    differences, differing = [], 0
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        with torch.inference_mode():
            expected = model(labels.normalised(batch))
        found = agree(expected, logits(batch), labels)
        differences.append(found.largest)
        differing += found.changed
        advance(len(batch))
    # Not Python's max, which passes over a NaN.
    largest = float(np.max(differences))
    if differing or not largest < TOLERANCE:
        raise ExportError(
            f"the exported file does not compute what the model does: of "
            f"{counted(len(images), 'image')} {differing} get another answer, and logits differ by "
            f"up to {largest:.1e} (allowed: 0, and {TOLERANCE:.0e})"
        )
    return largest


def _of_signs(
    model: nn.Module,
    labels: Labels,
    logits: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    advance: Callable[[int], None],
    agree: Agree,
) -> float:
    """Return the largest difference of a logit for a network of signs, image by image."""
    largest, departing, differing = [0.0], 0, 0
    for image in images:
        pixels = labels.normalised(image[None])
        with torch.inference_mode():
            expected = model(pixels)
        found = agree(expected, logits(image[None]), labels)
        if not found.largest < TOLERANCE:
            departing += 1
            if not _turns(model, pixels, expected):
                raise ExportError(
                    "the exported file does not compute what the model does: logits of an image "
                    f"differ by up to {found.largest:.2g}, and rounding turns no sign there"
                )
        differing += found.changed
        largest.append(found.largest)
        advance(1)
    if max(departing, differing) > TURNED * len(images):
        raise ExportError(
            f"the exported file does not compute what the model does: of "
            f"{counted(len(images), 'image')} {differing} get another answer, and of {departing} "
            f"logits differ by {TOLERANCE:.0e} or more (allowed of a network of signs: one image "
            f"in {1 / TURNED:.0f})"
        )
    return float(np.max(largest))


def _turns(model: nn.Module, pixels: torch.Tensor, expected: torch.Tensor) -> bool:
    """Return whether changes of the input as small as rounding turn a sign, and so the logits."""
    random = torch.Generator().manual_seed(0)
    for _ in range(DRAWS):
        noise = ROUNDING * torch.randn(pixels.shape, generator=random)
        with torch.inference_mode():
            if (model(pixels + noise) - expected).abs().max() >= TOLERANCE:
                return True
    return False


def synthetic(labels: Labels, n: int = ENOUGH) -> np.ndarray:
    """Make inputs to compare on where no real ones are at hand: images uint8 (n, H, W, C), series
    float32 (n, T, F), clips uint8 (n, T, H, W, C), waveforms float32 (n, samples)."""
    random = np.random.default_rng(0)
    if labels.takes == "series":
        shape = n, labels.image[0], labels.channels
        drawn = random.standard_normal(shape, dtype=np.float32)
        return drawn * np.asarray(labels.std, np.float32) + np.asarray(labels.mean, np.float32)
    if labels.takes == "waves":
        swelling = np.hanning(labels.image[1]).astype(np.float32)
        return 0.3 * swelling * random.standard_normal((n, labels.image[1]), dtype=np.float32)
    if labels.takes == "clips":
        still = np.stack([_scene(random, labels) for _ in range(n)])
        # A scene that is shifted a little from frame to frame.
        return np.stack([np.roll(still, at, 2) for at in range(labels.frames)], 1)
    return np.stack([_scene(random, labels) for _ in range(n)])


def _scene(random: np.random.Generator, labels: Labels) -> np.ndarray:
    """Make soft patches of light under a little noise."""
    coarse = random.integers(0, 256, (1, 7, 7, labels.channels), dtype=np.uint8)
    smooth = resize(coarse, labels.image)[0].astype(np.float32)
    noise = random.standard_normal(smooth.shape, dtype=np.float32)
    return (smooth + 13 * noise).clip(0, 255).astype(np.uint8)


@contextlib.contextmanager
def quiet():
    """Silence exporters and quantisers, which write to standard output and to the log."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
