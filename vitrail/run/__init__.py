"""The life of one run: its folder, data, training, judging, exporting and reporting."""
