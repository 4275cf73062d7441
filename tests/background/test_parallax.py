"""Meshes of a long shot lie on disk."""

from __future__ import annotations

import tracemalloc

import numpy as np

from vace_batch.background.parallax import MeshFile, make_mesh
from vace_batch.geometry import Size

SMALL, FULL = Size(160, 90), Size(1280, 720)


def test_meshes_come_back_and_take_no_memory() -> None:
    rng = np.random.default_rng(0)
    at = rng.uniform(0, 90, (30, 2)).astype(np.float32)
    rests = [rng.normal(0, 1, (30, 2)).astype(np.float32) for _ in range(4)]
    file = MeshFile()
    make_mesh(at, rests[0], SMALL, FULL, file)
    tracemalloc.start()
    meshes = [make_mesh(at, rests[n % 4], SMALL, FULL, file) for n in range(400)]
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    grid_bytes = meshes[0].shifts.nbytes
    assert grid_bytes > 1500 and used < 400 * grid_bytes / 3
    for n in (0, 1, 6, 399):
        alone = make_mesh(at, rests[n % 4], SMALL, FULL, MeshFile())
        np.testing.assert_array_equal(meshes[n].shifts, alone.shifts)
    places = np.stack(np.meshgrid(np.arange(0, 1280, 50), np.arange(0, 720, 50)), axis=-1).astype(np.float32)
    assert np.abs(meshes[0].at(places)).max() > 0 and (meshes[0].at(places) != meshes[1].at(places)).any()
