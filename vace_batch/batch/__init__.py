"""Run one batch: plan it, drive it, watch it; dry run, calibration and machine check.

May import the rooms steps, cluster, ledger, quality, vace, vcu, planning, masks, manifest, video and storage.
"""
