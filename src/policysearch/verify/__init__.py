"""Estimators against closed forms, and how noisy each one is at a policy."""
