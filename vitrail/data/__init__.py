"""Files to batches: sources, the data gate, the split, the pixel cache, augmentation, batches.

`open_source` finds the images, `gate.inspect` decodes each once and says what is wrong with
them, `split.divide` makes three parts, `cache.pixels` brings a part to the training size, and
`batches.Batches` makes each batch a function of (seed, epoch, number).
"""
