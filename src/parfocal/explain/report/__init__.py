"""A run, its evaluation and its predictions as one page that stands alone."""

from parfocal.explain.report.page import write_report
from parfocal.explain.report.sources import ReportError

__all__ = ["ReportError", "write_report"]
