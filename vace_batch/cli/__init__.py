"""The command line: options, their parsing, and one module for each command.

May import the rooms report, demo, batch, cluster, steps, ledger, vace, masks, manifest and storage.
"""
