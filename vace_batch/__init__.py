"""Remove and restyle objects in whole video archives, unattended, on a Ray cluster."""

__version__ = "0.1.0"
