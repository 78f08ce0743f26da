"""Write a report of runs, evaluations and predictions as one self-contained HTML page."""

from parfocal.explain.report.optional import optional_report
from parfocal.explain.report.page import write_report
from parfocal.explain.report.sources import ReportError

__all__ = ["ReportError", "optional_report", "write_report"]
