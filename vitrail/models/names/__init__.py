"""Tables that map the names of published checkpoints to ours, one file per family."""
