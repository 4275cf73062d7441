"""Remove and restyle objects in whole video archives, unattended, on a Ray cluster.

The way of the data: manifest, video, masks, planning, background, vcu, vace, stitch, quality, ledger. `steps` takes one
clip along it, `batch` a whole manifest, `cluster` puts steps on machines; `cli` and `report` are the faces.
"""

__version__ = "0.1.0"
