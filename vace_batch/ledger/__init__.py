"""Keep the records of an output folder: what is done, failed, planned and spent. Any number of writers.

May import storage, quality (verdict), manifest and what lies below them.
"""
