"""The report of a run: plain data in, one self-contained page and a model card out."""
