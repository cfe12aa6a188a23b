"""Measurements: the cost of a decision, and the server beside an empty one. `make bench` runs them all.

Machines differ and are shared: compare the rows of one run, never runs of two machines.
"""
