"""Training: one loop for every model, that may be stopped at any moment and goes on bit for bit.

Read `loop.py` first. What it uses: `objective` (the loss), `optimizer` and `schedule` (plain
values), `average` (EMA of the weights), `snapshot` (the state on disk), `journal` (the curve),
`device` (Lightning Fabric), `interrupt` (SIGTERM and Ctrl-C). `evaluate` and `metrics` judge.
"""
