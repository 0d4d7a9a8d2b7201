"""Evaluation: predictions to metrics, intervals, controls and strata, and the comparison of two models."""
