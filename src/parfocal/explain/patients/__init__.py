"""Write a printable page for each patient: answer, pictures, cost and model card."""

from parfocal.explain.patients.write import PatientPages, write_patients

__all__ = ["PatientPages", "write_patients"]
