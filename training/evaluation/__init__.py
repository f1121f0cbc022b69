"""Measures of a model: metrics, intervals, baselines, slices, effects."""
