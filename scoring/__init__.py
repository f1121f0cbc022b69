"""Scoring: turns features into scores and voucher decisions."""
