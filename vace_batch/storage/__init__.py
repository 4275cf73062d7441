"""Read and write files by URI: atomic publish, exclusive create, retries, node cache, allowed roots.

May import no other room.
"""
