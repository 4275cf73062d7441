"""Read and check a Parquet manifest: what is asked for, as `Job`s, with every fault of every row at once.

May import storage, options, errors, redact.
"""
