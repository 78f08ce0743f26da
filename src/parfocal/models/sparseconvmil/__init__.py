"""SparseConvMIL: a sparse convolution over the positions of the patches."""

from parfocal.models.sparseconvmil.model import SparseConvMIL

__all__ = ["SparseConvMIL"]
