"""The command line: options, how they are parsed, and one module a command.

May import every room.
"""
