"""The papers' tables, from the folder of a data set to our number beside the paper's."""

from parfocal.reproduce.experiments import TABLES, Reproduction, read_table
from parfocal.reproduce.plan import Plan, plan
from parfocal.reproduce.run import Reproduced, reproduce

__all__ = ["TABLES", "Plan", "Reproduced", "Reproduction", "plan", "read_table", "reproduce"]
