"""Measures of a model: metrics, intervals, baselines, slices, feature effects."""
