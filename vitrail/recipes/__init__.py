"""Trainings as values: a recipe says everything that decides over the weights."""
