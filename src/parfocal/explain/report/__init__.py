"""Results as one page that stands alone: a run, its evaluation and its predictions."""

from parfocal.explain.report.optional import optional_report
from parfocal.explain.report.page import write_report
from parfocal.explain.report.sources import ReportError

__all__ = ["ReportError", "optional_report", "write_report"]
