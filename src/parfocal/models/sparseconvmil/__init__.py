"""SparseConvMIL: a sparse convolution over the places of the patches."""

from parfocal.models.sparseconvmil.model import SparseConvMIL

__all__ = ["SparseConvMIL"]
