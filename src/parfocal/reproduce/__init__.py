"""The tables of the papers, with our numbers next to the paper's."""

from parfocal.reproduce.experiments import TABLES, Reproduction, read_table
from parfocal.reproduce.plan import Plan, plan
from parfocal.reproduce.run import ReproductionResult, reproduce

__all__ = [
    "TABLES",
    "Plan",
    "Reproduction",
    "ReproductionResult",
    "plan",
    "read_table",
    "reproduce",
]
