"""Read and check a Parquet manifest: every row becomes a `Job`, and every fault of every row is reported at once.

May import the room storage.
"""
