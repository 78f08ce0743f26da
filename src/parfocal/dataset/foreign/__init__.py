"""Convert tables of STAMP, CLAM, Patho-Bench and spreadsheets into a cohort CSV."""

from parfocal.dataset.foreign.convert import Converted, Options, convert_tables

__all__ = ["Converted", "Options", "convert_tables"]
