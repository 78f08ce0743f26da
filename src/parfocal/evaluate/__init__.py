"""Evaluate a trained model on a cohort: metrics with confidence intervals, cost, localization."""
