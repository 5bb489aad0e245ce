"""Answers on secrets: a run's network between two parties, who do not see what is the other's.

`plan` says what of a model is whose, `party` is the program of each party, in the environment of an
engine for secure computation, `environment` finds or makes that, `meeting` starts both and waits.
"""
