"""Fifteen corruptions of pictures at five severities, at whatever size the pictures have.

Noise, blur, weather and digital faults, after Hendrycks, Dietterich, "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations", ICLR 2019, arXiv 1903.12261. That benchmark has
one set of strengths for photographs of 224 pixels and a weaker one for pictures of 32. Here lengths
are shares of the shorter side, and other strengths have an end for 32 pixels and one for 224, much
like the benchmark's, between which they follow the logarithm of the side. Snow, frost and fog are
drawn, not taken from photographs, and glass moves pixels by parts of their size. So figures are for
comparing models on one's own pictures, and are none of ImageNet-C or CIFAR-10-C.
"""

from vitrail.corruptions.common import SEVERITIES, Severity
from vitrail.corruptions.corrupt import CORRUPTIONS, corrupted

__all__ = ["CORRUPTIONS", "SEVERITIES", "Severity", "corrupted"]
