"""Search of architectures: spaces, strategies, and the weights that candidates share."""
