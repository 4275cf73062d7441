"""Measure a finished clip, judge it, and name the next remedy; from pixels alone.

May import what stitch may, and not stitch.
"""
