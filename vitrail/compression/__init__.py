"""Smaller models out of trained ones: what of a model matters, and which of it stays.

`up_vit` asks what every channel is worth, `choosing` which ones stay at given sizes, `sizes` which
sizes keep a budget. What comes out is a `models.trunk.widths.Cut`; who trains and judges the rest
is the job's business.
"""
