"""Choose and load the weights of controls that a network draws: depth and pose."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from vace_batch.errors import ClipError
from vace_batch.manifest.choices import CONTROL_NETWORKS
from vace_batch.masks.weights import find_weights, missing_weights
from vace_batch.vcu.controls import networks


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlModels:
    """Weights for depth and pose: the run's defaults, and the folders and pickles that a row may name."""

    depth: str | None = None
    pose: str | None = None
    folders: tuple[str, ...] = ()
    pickles: tuple[str, ...] = ()
    device: str = "cpu"

    def path(self, control: str, name: str | None) -> str:
        """Return the local weights file of `control`: the job's `name`, else the run's default.

        Raises:
            ClipError: `no_control_weights`, `weights_not_found`, `weights_not_allowed`.
        """
        kind = CONTROL_NETWORKS[control]
        configured = self.depth if kind == "depth" else self.pose
        if name is None and configured is None:
            raise missing_weights(kind, f"control {control}")
        chosen = name or configured or ""
        return find_weights(chosen, configured=configured, folders=self.folders, pickles=self.pickles)

    def weights_of(self, controls: Iterable[str], name: str | None) -> dict[str, str]:
        """Return the paths of the weights that decide these controls, by control; missing weights are left out."""
        paths = {}
        for control in controls:
            if control in CONTROL_NETWORKS:
                with suppress(ClipError):  # prepare tells the row
                    paths[f"control_weights.{control}"] = self.path(control, name)
        return paths

    def load(self, control: str, name: str | None) -> networks.Estimator:
        """Load the weights of `control`: the job's `name`, else the run's default.

        Raises:
            ClipError: as `path`, and `bad_weights`, `wrong_weights`.
        """
        path = self.path(control, name)
        network = networks.load(path, CONTROL_NETWORKS[control], self.device)
        if control == "pose" and not network.sees_faces:
            reason = (
                f"weights {path} see bodies alone, and the control pose draws faces too: ask for pose_body, or give "
                f"weights of the {networks.WHOLE_BODY} points of COCO-WholeBody"
            )
            raise ClipError("wrong_weights", reason)
        return network
