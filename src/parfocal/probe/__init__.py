"""Compare encoders by linear probes on slide labels, before models are trained with them."""

from parfocal.probe.run import ProbeError, probe
from parfocal.probe.table import ProbeReport, ProbeRow

__all__ = ["ProbeError", "ProbeReport", "ProbeRow", "probe"]
