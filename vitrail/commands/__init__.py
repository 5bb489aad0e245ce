"""One file a command; `vitrail.cli` registers them."""
