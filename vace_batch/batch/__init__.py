"""Run one batch: plan it, drive it, watch it; dry run, calibration and machine check.

May import steps, cluster, ledger and what lies below them.
"""
