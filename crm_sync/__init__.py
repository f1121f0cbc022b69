"""Desired state minus acknowledged state, sent until the CRM has said yes to every row."""
