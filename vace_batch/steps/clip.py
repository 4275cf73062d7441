"""The work on one clip: a job with the settings that decide its pixels, and the identities made of them."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import asdict, astuple, dataclass
from functools import cached_property
from typing import Any

from vace_batch.errors import ClipError
from vace_batch.ledger.ledger import make_key
from vace_batch.manifest.job import DECIDES, Job, identity_fields
from vace_batch.options import KEY_VERSION, Options
from vace_batch.planning.windows import Region, WindowLimits
from vace_batch.steps.admission import admit
from vace_batch.steps.clip_plan import PlannedWindow
from vace_batch.storage import files as storage
from vace_batch.storage.node_cache import local_file
from vace_batch.storage.roots import Roots
from vace_batch.vcu.controls.models import ControlModels
from vace_batch.vcu.sampling import ResolvedSampling

MADE_AGAIN = "made again: "
"""The start of the note on a clip whose finished video was lost."""


@dataclass(frozen=True, kw_only=True)
class ClipWork:
    """One job with all settings that decide its pixels, which is all that a worker needs.

    `refused` is the error for which the job was refused when it was planned. `fingerprints` are empty then, as a
    refused file is never opened, and `prepare` raises the error as the row's failure. `problem` says why the finished
    clip is made again, where it is.
    """

    job: Job
    out: str
    output: str
    options: Options
    roots: Roots
    fingerprints: dict[str, str]
    model: str
    revision: str
    limits: WindowLimits
    sampling: ResolvedSampling
    refused: ClipError | None = None
    problem: str | None = None

    @property
    def prep_key(self) -> str:
        """The identity of the clip's masks and plan, and of the check that its container can hold the output."""
        return self._keys[0]

    @property
    def clip_key(self) -> str:
        """The identity of the stitched clip under its name."""
        return self._keys[1]

    @property
    def expects_found(self) -> bool:
        """Whether the clip fails where nothing to change is found: the row's `expect_found`, else the run's."""
        return self.options.expect_found if self.job.expect_found is None else self.job.expect_found

    @cached_property
    def _keys(self) -> tuple[str, str]:
        """Hash `prep_key` and `clip_key`, once for each work."""
        fields = identity_fields(self.job)
        prep_key = self._prep_key(fields)
        # Only a clip that expects to be found has a key of its own, so that a run may learn it later.
        name = (self.job.job_id, self.output, *(("expect_found",) if self.expects_found else ()))
        encoding = self.options.pixel_fields()
        return prep_key, make_key("clip", KEY_VERSION, name, self._generation(fields), prep_key, encoding)

    def _prep_key(self, identity: Mapping[str, object]) -> str:
        fields = {name: value for name, value in identity.items() if DECIDES[name] in ("masks", "plan")}
        task = fields.pop("task")  # stands apart from the other fields in the key
        precision = ("float32",) if self.options.engine.deterministic else ()
        finding = (self.options.detect_every, self.options.tracker, *precision) if self.job.needs_pixels else None
        asked = (task, posixpath.splitext(self.output)[1], fields, finding)
        return make_key("prep", KEY_VERSION, *asked, self._sources, asdict(self.limits))

    def window_key(self, planned: PlannedWindow, region: Region) -> str:
        """Make the identity of a window's generated frames.

        The job's name is not part of the key, so equal windows of two jobs are generated once.
        """
        window = planned.window
        place = (window.start, window.stop, window.num_frames, astuple(window.box), astuple(region.size))
        generation = self._generation(identity_fields(self.job))
        return make_key("window", KEY_VERSION, generation, place, planned.known_digest, planned.shot)

    def seed(self, planned: PlannedWindow) -> int:
        """Return the window's seed, shared as `seed_scope` says; it depends on no batch, actor or order."""
        base: object = self.job.seed if self.job.seed is not None else self.fingerprints["video_uri"]
        scope: tuple[object, ...] = (planned.window.start, planned.window.box)
        if self.job.seed_scope == "shot":
            scope = (planned.shot,)
        elif self.job.seed_scope == "programme":
            names = [file.fingerprint_name for file in self.job.files() if file.decides == "pixels"]
            references = [self.fingerprints[name] for name in names]
            base = self.job.seed if self.job.seed is not None else (self.job.prompt, *references)
            scope = ()
        return int(storage.digest(repr((base, *scope)))[:15], 16)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of every window of the job, for the plan and for the clip's record."""
        return {
            "model": self.model,
            "revision": self.revision,
            "preset": self.job.preset,
            "prompt": self.job.prompt,
            "negative_prompt": self.job.negative_prompt,
            "seed_scope": self.job.seed_scope,
            "max_tokens": self.limits.max_tokens,
            "max_frames": self.limits.max_frames,
            "overlap_frames": self.limits.overlap_frames,
            "sampling": asdict(self.sampling),
            "engine": self.options.engine.pixel_fields(),
        }

    @property
    def control_models(self) -> ControlModels:
        """The weights that may draw the control videos."""
        return control_models(self.options)

    @contextlib.contextmanager
    def source(self) -> Iterator[str]:
        """Give a local path of the video of the planned version, after the job is admitted again.

        Every step that opens the job's files opens the video first. Since the run was planned, a link may have been
        changed to lead outside the roots.

        Raises:
            ClipError: as `admit`, and `source_changed`.
        """
        admit(self.job, self.roots, self.options)
        with local_file(self.job.video_uri, "video_uri", self.fingerprints) as path:
            yield path

    @property
    def _sources(self) -> dict[str, str]:
        """The part of an identity that stands for the sources: their fingerprints, or the reason to refuse them."""
        return self.fingerprints if self.refused is None else {"refused": str(self.refused)}

    def _generation(self, identity: Mapping[str, object]) -> tuple[object, ...]:
        fields = {name: value for name, value in identity.items() if DECIDES[name] in ("plan", "pixels")}
        # A window's masks count by `known_digest`, not by the mask file of the row.
        mask_files = {file.fingerprint_name for file in self.job.files() if file.decides == "masks"}
        sources = {name: value for name, value in self._sources.items() if name not in mask_files}
        engine = self.options.engine.pixel_fields()
        return fields, sources, self.model, self.revision, self.sampling.identity, engine


def control_models(options: Options) -> ControlModels:
    """Return the weights that may draw the control videos of a run."""
    return ControlModels(
        depth=options.depth, pose=options.pose, folders=options.weights_folders, pickles=options.pickles
    )
