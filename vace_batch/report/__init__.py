"""Show results to people: the HTML report, `explain`, contact sheets and mask reviews.

May import the rooms steps, ledger, quality, masks, manifest, video and storage.
"""
