"""How fast is this, against the ordinary way of doing the same work?"""

from nrms.bench.benchmark import answer, costs, latest, run, summary

__all__ = ["answer", "costs", "latest", "run", "summary"]
