"""The commands, one file each; `vitrail.cli` registers them."""
