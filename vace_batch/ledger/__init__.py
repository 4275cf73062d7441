"""Keep the records of an output folder: clips done, failed, planned and paid for. Any number of writers.

May import the rooms quality, manifest and storage.
"""
