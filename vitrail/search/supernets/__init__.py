"""Networks that hold all candidates of a search at once."""
