# ruff: noqa
"""Move the package into its rooms: files by `git mv`, definitions of split modules, imports, strings and paths.

    python .ci/move_house.py          in a clean checkout of the commit before the move

Every import is rewritten to the module that holds the definition; a module that is imported as a whole keeps its name
where the file uses the new one for something else. Nothing else of the code changes.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import defaultdict
from pathlib import Path

# --- the map ---
MOVE = {
    "__init__": "__init__.py",
    "__main__": "__main__.py",
    "errors": "errors.py",
    "geometry": "geometry.py",
    "log": "log.py",
    "config": "options.py",
    "cost": "costs.py",
    # storage
    "storage": "storage/files.py",
    "patience": "storage/retry.py",
    "clients": "storage/redirects.py",
    "nodecache": "storage/node_cache.py",
    # manifest
    "job": "manifest/job.py",
    "manifest_schema": "manifest/schema.py",
    "manifest_values": "manifest/cells.py",
    "manifest_rules": "manifest/rules.py",
    "manifest_uri": "manifest/uris.py",
    "manifest": "manifest/reader.py",
    "manifest_build": "manifest/builder.py",
    "manifest_docs": "manifest/docs.py",
    "naming": "manifest/output_names.py",
    "incoming": "manifest/inbox.py",
    # video
    "video": "video/__init__.py",
    "video.probe": "video/probe.py",
    "video.shots": "video/shots.py",
    "video.read": "video/reader.py",
    "video.frame": "video/frame.py",
    "video.write": "video/writer.py",
    "video.encoders": "video/encoders.py",
    "video.calibrate": "video/rate_control.py",
    "video.splice": "video/splice.py",
    "video.splice_plan": "video/splice_plan.py",
    "video.nal": "video/nal.py",
    "video.tracks": "video/tracks.py",
    "video.canvas": "video/canvas_frames.py",
    "video.chroma": "video/chroma.py",
    "video.hdr": "video/hdr.py",
    "video.masks": "video/mask_video.py",
    "video.thumbs": "video/thumbnails.py",
    "ahead": "video/read_ahead.py",
    # masks
    "masks": "masks/__init__.py",
    "masks.watch": "masks/finder.py",
    "masks.store": "masks/store.py",
    "masks.refine": "masks/refine.py",
    "masks.shapes": "masks/keyframes.py",
    "masks.files": "masks/import_files.py",
    "masks.kept": "masks/export_files.py",
    "masks.coco": "masks/coco.py",
    "masks.weights": "masks/weights.py",
    "masks.detection": "masks/detectors/detection.py",
    "masks.detect": "masks/detectors/yolo.py",
    "masks.onnx": "masks/detectors/yolo_onnx.py",
    "masks.export": "masks/detectors/onnx_export.py",
    "masks.vocabulary": "masks/detectors/vocabulary.py",
    "masks.text": "masks/detectors/text.py",
    "masks.overlay": "masks/detectors/overlay.py",
    "masks.segment": "masks/segmenters/sam.py",
    "masks.memory": "masks/segmenters/sam2_memory.py",
    "masks.tracker": "masks/tracking/trackers.py",
    "masks.objects": "masks/tracking/objects.py",
    "masks.recall": "masks/tracking/memory.py",
    "masks.sparse": "masks/tracking/frame_skipping.py",
    "masks.steady": "masks/tracking/smoothing.py",
    # plan
    "plan": "plan/windows.py",
    "steady": "plan/stills.py",
    "stage": "plan/canvas.py",
    # background
    "background": "background/__init__.py",
    "background.camera": "background/camera.py",
    "background.motion": "background/motion.py",
    "background.mesh": "background/parallax.py",
    "background.light": "background/exposure.py",
    "background.plate": "background/plate.py",
    "background.between": "background/transitions.py",
    "background.fill": "background/fill.py",
    "background.recover": "background/recover.py",
    "background.shadow": "background/shadow.py",
    "patches": "background/patches.py",
    # vcu
    "vcu": "vcu/unit.py",
    "tasks": "vcu/__init__.py",
    "tasks.window": "vcu/tasks.py",
    "tasks.condition": "vcu/conditions.py",
    "tasks.references": "vcu/references.py",
    "footage": "vcu/frames.py",
    "controls": "vcu/controls/__init__.py",
    "controls.draw": "vcu/controls/draw.py",
    "controls.estimate": "vcu/controls/networks.py",
    # vace
    "vace": "vace/__init__.py",
    "vace.engine": "vace/engine.py",
    "vace.encode": "vace/encode.py",
    "vace.sample": "vace/sample.py",
    "vace.model": "vace/model.py",
    "vace.prompts": "vace/prompts.py",
    "vace.lora": "vace/lora_fusion.py",
    "vace.tuning": "vace/acceleration.py",
    "vace.stepcache": "vace/step_cache.py",
    "vace.parallel": "vace/context_parallel.py",
    "vace.convert": "vace/convert.py",
    "vace.names": "vace/wan_names.py",
    "weights": "vace/weights.py",
    "loras": "vace/loras.py",
    "sizing": "vace/sizing.py",
    "training": "vace/training/__init__.py",
    "training.tune": "vace/training/finetune.py",
    "training.loop": "vace/training/loop.py",
    "training.flow": "vace/training/flow_matching.py",
    "training.lowrank": "vace/training/lora.py",
    "training.samples": "vace/training/samples.py",
    "training.archive": "vace/training/archive.py",
    "training.clips": "vace/training/clips.py",
    "training.pictures": "vace/training/pictures.py",
    "training.styles": "vace/training/styles.py",
    "training.embedded": "../recipes/tiny_model/build.py",
    "training.endless": "../recipes/tiny_model/samples.py",
    "training.autoencoder": "../recipes/tiny_model/autoencoder.py",
    "training.linear": "../recipes/tiny_model/linear.py",
    "training.spread": "../recipes/tiny_model/context_init.py",
    "training.text": "../recipes/tiny_model/text_encoder.py",
    "training.curve": "../recipes/tiny_model/loss_curve.py",
    "demo.train_detector": "../recipes/demo_detector.py",
    # stitch, quality
    "colour": "stitch/colour.py",
    "quality": "quality/__init__.py",
    "quality.measures": "quality/measures.py",
    "quality.meter": "quality/meter.py",
    "quality.watch": "quality/compare.py",
    "quality.detection": "quality/leftovers.py",
    "quality.container": "quality/container.py",
    "quality.verdict": "quality/verdict.py",
    "ladder": "quality/remedies.py",
    # ledger
    "records": "ledger/records.py",
    "usage": "ledger/usage.py",
    "verdicts": "ledger/verdicts.py",
    "garbage": "ledger/garbage.py",
    "changes": "ledger/overrides.py",
    # steps
    "generation": "steps/generate.py",
    "intake": "steps/admission.py",
    "predict": "steps/prediction.py",
    # cluster
    "cluster": "cluster/__init__.py",
    "cluster.dispatch": "cluster/policy.py",
    "cluster.board": "cluster/run_state.py",
    "cluster.loop": "cluster/dispatcher.py",
    "cluster.actors": "cluster/worker.py",
    "cluster.resources": "cluster/machines.py",
    "cluster.metrics": "cluster/metrics.py",
    "cluster.training": "cluster/training.py",
    # run
    "workers": "run/workers.py",
    "graph": "run/graph.py",
    "climb": "run/attempts.py",
    "budget": "run/budget.py",
    "spending": "run/spending.py",
    "retrying": "run/retry.py",
    "progress": "run/progress.py",
    "pulse": "run/heartbeat.py",
    "watching": "run/monitor.py",
    "eventlog": "run/events.py",
    "estimate": "run/dry_run.py",
    "calibrate": "run/calibrate.py",
    "doctor": "run/doctor.py",
    # report
    "report": "report/__init__.py",
    "report.write": "report/writer.py",
    "report.rows": "report/rows.py",
    "report.tally": "report/tally.py",
    "report.charts": "report/charts.py",
    "report.datafiles": "report/data_files.py",
    "report.previews": "report/previews.py",
    "explain": "report/explain.py",
    # demo
    "demo": "demo/__init__.py",
    "demo.media": "demo/clips.py",
    "demo.scenery": "demo/scenery.py",
    "demo.sheet": "report/contact_sheet.py",
    # cli
    "cli": "cli/app.py",
    "cli_groups": "cli/option_groups.py",
    "running": "cli/running.py",
    "plan_command": "cli/plan.py",
    "retry_command": "cli/retry.py",
    "status_command": "cli/status.py",
    "explain_command": "cli/explain.py",
    "report.command": "cli/report.py",
}
# old module -> {new path: [definitions]}; the rest of the module goes to DEFAULT
SPLIT = {
    "access": ("redact.py", {"storage/roots.py": ["Roots", "_local_path", "_is_below"]}),
    "profiles": (
        "vace/profiles.py",
        {
            "manifest/presets.py": [
                "WAN_NEGATIVE_PROMPT",
                "Preset",
                "PRESETS",
                "LORA_PRESETS",
                "_PRESET_OF_TASK",
                "preset_name",
                "with_preset",
                "default_negative_prompt",
            ],
            "vcu/sampling.py": ["Lora", "ResolvedSampling", "MASK_RULES"],
        },
    ),
    "results": (
        "ledger/summary.py",
        {
            "ledger/ledger.py": ["KINDS", "make_key", "now", "Ledger", "_dump", "_tell", "_FREE_TEXT"],
            "ledger/run_plan.py": [
                "PlannedJob",
                "_PLAN_SCHEMA",
                "write_plan",
                "read_run",
                "read_plan",
                "find_job",
                "_plan_table",
                "_AT_ONCE",
            ],
            "ledger/results.py": ["_WINDOW_ROW", "_RESULT_SCHEMA", "write_results"],
        },
    ),
    "batch": (
        "run/batch.py",
        {
            "run/identity.py": [
                "_SUFFIXES",
                "_MAGIC",
                "works_of",
                "_work",
                "_limits",
                "another_attempt",
                "_model",
                "_fingerprints",
                "_suffix",
                "mask_models",
            ],
            "run/pools.py": ["pools_of", "_texts", "open_runtime"],
            "run/driver.py": ["run_clips", "_Tally", "DRAIN_GRACE_S", "_LOG"],
        },
    ),
    "steps": (
        "steps/prepare.py",
        {
            "steps/build.py": ["build", "_pictures"],
            "steps/clip_plan.py": ["_files"],
            "steps/stitch.py": ["stitch", "_copy", "_rewrite", "_said", "_window_record", "_window_row"],
        },
    ),
    "work": ("steps/clip.py", {"steps/clip_plan.py": ["FILES", "PlannedWindow", "ClipPlan", "CLIP_PLAN"]}),
    "judging": (
        "steps/measure.py",
        {"steps/settle.py": ["ladder_key", "attempt_name", "set_aside", "settle", "_copy"]},
    ),
    "clipmasks": ("steps/masks.py", {"storage/node_cache.py": ["local_file"]}),
    "recovery": ("background/clip.py", {"steps/digest.py": ["known_digest"]}),
    "review": (
        "steps/keep.py",
        {"report/mask_review.py": ["_TINT", "_LONGEST_PX", "Reviewed", "review", "_reviewed", "_overlays"]},
    ),
    "masks.source": (
        "masks/clip.py",
        {
            "masks/models.py": [
                "DEFAULT_EVERY",
                "MaskModels",
                "_loaded_detector",
                "_cache_folder",
                "_loaded_segmenter",
                "_text_finder",
                "check_names",
                "_checked_detector",
            ],
            "masks/refine.py": ["dilation_of"],
            "manifest/job.py": ["has_mask_source", "protects", "needs_pixels"],
        },
    ),
    "cluster.units": (
        "cluster/units.py",
        {
            "cluster/events.py": [
                "ActorReady",
                "ActorDied",
                "ActorWaiting",
                "UnitStarted",
                "UnitRan",
                "UnitDone",
                "UnitFailed",
                "Event",
            ]
        },
    ),
    "cluster.runtime": (
        "cluster/runtime.py",
        {
            "cluster/ray_cluster.py": [
                "LOOK_FOR_DRAINS_S",
                "SETTLE_S",
                "_Call",
                "_Handle",
                "RayCluster",
                "is_death",
                "cause_of_death",
                "detail_of_death",
                "_answer",
                "worker_environment",
                "bundle_of",
            ]
        },
    ),
    "stitch": (
        "stitch/paste.py",
        {
            "stitch/regions.py": ["RegionPatches", "_Reader", "OpenWindow", "share_out"],
            "video/scaling.py": ["resize", "Image"],
        },
    ),
    "cli_options": (
        "cli/options.py",
        {
            "cli/parsing.py": [
                "SettingsT",
                "KEPT_FORMS",
                "TRACKERS",
                "parse_quality",
                "parse_roots",
                "parse_pickles",
                "parse_kept",
                "parse_tracker",
                "parse_loras",
                "parse_presets",
                "_sampling_value",
                "parse_engine",
                "parse_limits",
                "_settings",
                "parse_prices",
                "read_calibration",
                "_faults",
            ]
        },
    ),
}
TESTS = {
    "conftest": "conftest.py",
    "unit.test_house": "test_project.py",
    "unit.test_log": "test_log.py",
    "unit.test_cost": "test_costs.py",
    "unit.test_engine_settings": "test_options.py",
    "contract.conftest": "vace/conftest.py",
    "unit.test_storage": "storage/test_files.py",
    "contract.test_storage_backends": "storage/test_backends.py",
    "unit.test_patience": "storage/test_retry.py",
    "contract.test_redirects": "storage/test_redirects.py",
    "contract.test_node_cache": "storage/test_node_cache.py",
    "unit.test_access": "storage/test_roots.py",
    "unit.test_manifest": "manifest/test_reader.py",
    "unit.test_manifest_build": "manifest/test_builder.py",
    "unit.test_manifest_docs": "manifest/test_docs.py",
    "unit.test_manifest_fuzz": "manifest/test_reader_fuzz.py",
    "unit.test_naming": "manifest/test_output_names.py",
    "unit.test_incoming": "manifest/test_inbox.py",
    "unit.test_video_frame": "video/test_frame.py",
    "unit.test_video_probe": "video/test_probe.py",
    "unit.test_video_write": "video/test_writer.py",
    "unit.test_video_splice": "video/test_splice.py",
    "unit.test_video_tracks": "video/test_tracks.py",
    "unit.test_video_encoders": "video/test_encoders.py",
    "unit.test_video_canvas": "video/test_canvas_frames.py",
    "unit.test_video_chroma": "video/test_chroma.py",
    "contract.test_video_readers": "video/test_readers.py",
    "unit.test_captions": "video/test_captions.py",
    "unit.test_output_container": "video/test_containers.py",
    "contract.test_bad_inputs_fuzz": "video/test_bad_inputs_fuzz.py",
    "unit.test_masks_clips": "masks/test_clip.py",
    "unit.test_masks_source": "masks/test_clip_sources.py",
    "unit.test_masks_watch": "masks/test_finder.py",
    "unit.test_masks_store": "masks/test_store.py",
    "unit.test_masks_refine": "masks/test_refine.py",
    "unit.test_masks_shapes": "masks/test_keyframes.py",
    "unit.test_masks_files": "masks/test_import_files.py",
    "contract.test_mask_bombs": "masks/test_import_bombs.py",
    "unit.test_masks_interchange": "masks/test_export_files.py",
    "unit.test_masks_weights": "masks/test_weights.py",
    "contract.test_hostile_weights": "masks/test_hostile_weights.py",
    "unit.test_masks_detect": "masks/detectors/test_yolo.py",
    "unit.test_masks_onnx": "masks/detectors/test_yolo_onnx.py",
    "unit.test_masks_vocabulary": "masks/detectors/test_vocabulary.py",
    "unit.test_masks_segment": "masks/segmenters/test_sam.py",
    "unit.test_masks_memory": "masks/segmenters/test_sam2_memory.py",
    "unit.test_masks_objects": "masks/tracking/test_objects.py",
    "unit.test_masks_sparse": "masks/tracking/test_frame_skipping.py",
    "unit.test_plan": "plan/test_windows.py",
    "unit.test_following_crops": "plan/test_following_crops.py",
    "unit.test_steady": "plan/test_stills.py",
    "unit.test_stage": "plan/test_canvas.py",
    "unit.test_background": "background/test_recover.py",
    "unit.test_background_light": "background/test_exposure.py",
    "unit.test_background_mesh": "background/test_parallax.py",
    "unit.test_patches": "background/test_patches.py",
    "unit.test_recovery": "background/test_clip.py",
    "unit.test_vcu": "vcu/test_unit.py",
    "unit.test_tasks": "vcu/test_tasks.py",
    "unit.test_tasks_condition": "vcu/test_conditions.py",
    "unit.test_tasks_references": "vcu/test_references.py",
    "unit.test_controls": "vcu/test_controls.py",
    "unit.test_profiles": "vace/test_profiles.py",
    "unit.test_loras": "vace/test_loras.py",
    "contract.test_weights": "vace/test_weights.py",
    "contract.test_convert": "vace/test_convert.py",
    "contract.test_engine": "vace/test_engine.py",
    "contract.test_engine_load": "vace/test_model.py",
    "contract.test_engine_speed": "vace/test_acceleration.py",
    "contract.test_lora": "vace/test_lora_fusion.py",
    "contract.test_two_experts": "vace/test_two_experts.py",
    "unit.test_training": "vace/training/test_samples.py",
    "contract.test_training_tune": "vace/training/test_finetune.py",
    "unit.test_stitch": "stitch/test_paste.py",
    "unit.test_colour": "stitch/test_colour.py",
    "unit.test_quality": "quality/test_measures.py",
    "unit.test_quality_detection": "quality/test_leftovers.py",
    "unit.test_ladder": "quality/test_remedies.py",
    "unit.test_task_windows": "steps/test_build.py",
    "unit.test_generation": "steps/test_generate.py",
    "unit.test_protect": "steps/test_protect.py",
    "unit.test_dilation_scale": "steps/test_masks.py",
    "unit.test_predict": "steps/test_prediction.py",
    "contract.test_bad_inputs": "steps/test_bad_inputs.py",
    "unit.test_results": "ledger/test_ledger.py",
    "unit.test_results_records": "ledger/test_records.py",
    "unit.test_dispatch": "cluster/test_policy.py",
    "unit.test_dispatch_board": "cluster/test_run_state.py",
    "unit.test_dispatch_elastic": "cluster/test_scaling.py",
    "unit.test_dispatch_ray_errors": "cluster/test_ray_errors.py",
    "unit.test_dispatch_runs": "cluster/test_dispatcher.py",
    "unit.test_dispatch_shards": "cluster/test_shards.py",
    "unit.test_actors": "cluster/test_worker.py",
    "unit.test_batch_graph": "run/test_graph.py",
    "unit.test_budget": "run/test_budget.py",
    "unit.test_spending": "run/test_spending.py",
    "unit.test_estimate": "run/test_dry_run.py",
    "unit.test_retrying": "run/test_retry.py",
    "unit.test_watching": "run/test_monitor.py",
    "contract.test_calibrate": "run/test_calibrate.py",
    "contract.test_doctor": "run/test_doctor.py",
    "unit.test_report": "report/test_writer.py",
    "unit.test_review": "report/test_mask_review.py",
    "browser.test_report_page": "report/test_page_in_a_browser.py",
    "unit.test_demo_media": "demo/test_clips.py",
    "unit.test_cli_options": "cli/test_parsing.py",
    "cluster.test_command_line": "integration/test_command_line.py",
    "cluster.test_budget_run": "integration/test_budget_run.py",
    "cluster.test_demo_run": "integration/test_demo_run.py",
    "cluster.test_every_task": "integration/test_every_task.py",
    "cluster.test_loras_run": "integration/test_loras_run.py",
    "cluster.test_metrics": "integration/test_metrics.py",
    "cluster.test_object_store": "integration/test_object_store.py",
    "cluster.test_ray_autoscaler": "integration/test_ray_autoscaler.py",
    "cluster.test_ray_dispatch": "integration/test_ray_dispatch.py",
    "cluster.test_ray_node_loss": "integration/test_ray_node_loss.py",
    "cluster.test_ladder_run": "integration/test_remedies_run.py",
    "flow.conftest": "flows/conftest.py",
    "flow.server": "flows/server.py",
    "flow.test_batch_flow": "flows/test_batch_flow.py",
    "flow.test_deployment": "flows/test_deployment.py",
    "flow.test_nodes": "flows/test_nodes.py",
    "flow.test_on_a_server": "flows/test_on_a_server.py",
    "contract.test_training_embedded": "recipes/test_tiny_model.py",
    "unit.test_demo_detector": "recipes/test_demo_detector.py",
    "contract.test_benchmark_engine": "benchmarks/test_engine.py",
    "bad_media": "support/bad_media.py",
    "media_files": "support/media_files.py",
    "noise_engine": "support/noise_engine.py",
    "report_out": "support/report_out.py",
    "s3_server": "support/s3_server.py",
    "cloud_servers": "support/cloud_servers.py",
    "cluster.simulation": "support/simulated_cluster.py",
    "cluster.multi_node": "support/multi_node.py",
    "cluster.workers": "support/workers.py",
    "cluster.grow_and_shrink": "support/grow_and_shrink.py",
    "cluster.lose_a_node": "support/lose_a_node.py",
    "cluster.metrics_on_ray": "support/metrics_on_ray.py",
}
# --- the script ---

SPLIT["steps"][1]["steps/clip.py"] = SPLIT["steps"][1].pop("steps/clip_plan.py")  # `_files` takes a ClipWork

ROOT = Path.cwd()
DOCS = {
    "storage/roots.py": "Which places a run may read: the manifest's folder, the output, and the folders of `--allow-root`.",
    "manifest/presets.py": "Presets: named bundles of LoRAs, sampling settings and prompts that a row may ask for.",
    "vcu/sampling.py": "The sampling settings and LoRAs of a window, with every default filled in.",
    "ledger/ledger.py": "The ledger of an output folder: records of finished, failed and tried work.",
    "ledger/run_plan.py": "The plan of a run: `run.json` and the table of planned jobs.",
    "ledger/results.py": "Write the results: one Parquet row a job with its windows nested.",
    "run/identity.py": "Give every job of a manifest its identity: fingerprints, model revision, limits and sampling.",
    "run/pools.py": "The actor pools of a run: how many CPU and GPU actors, and how each starts.",
    "run/driver.py": "Drive a batch's clips to their end on a runtime.",
    "steps/build.py": "Build the VCU of one window.",
    "steps/clip_plan.py": "The plan of a clip: shots, regions, windows, and the files of masks and recovered pixels.",
    "steps/stitch.py": "Stitch a clip: write the finished video and commit its record.",
    "steps/settle.py": "Settle a clip's attempts: keep the best one under the clip's name.",
    "steps/digest.py": "The digest of what is known of a window: masks and recovered pixels.",
    "report/mask_review.py": "Make a job's masks alone, with a video that shows them over the source.",
    "masks/models.py": "Which weights make a job's masks, and the loaded detectors and segmenters of this process.",
    "cluster/events.py": "Events of a run: actors that come and go, units that start and end.",
    "cluster/ray_cluster.py": "The dispatcher's cluster on Ray: start actors, call them, read how they died.",
    "stitch/regions.py": "A region's generated frames, window by window, shared out over the source's frames.",
    "video/scaling.py": "Resize frames between source and model size.",
    "cli/parsing.py": "Parse the command line's values into options.",
}

ROOMS = {
    "__init__.py": """Remove and restyle objects in whole video archives, unattended, on a Ray cluster.

The way of the data: manifest, video, masks, background, plan, vcu, vace, stitch, quality, ledger. `steps` takes one
clip along it, `run` a batch, `cluster` puts steps on machines; `cli` and `report` are the faces.
""",
    "manifest/__init__.py": """Read and check a Parquet manifest: what is asked for, as `Job`s, with every fault of every row at once.

May import storage, options, errors, redact.
""",
    "video/__init__.py": """Read exact frames and write exact files: the only room that imports PyAV, decord and PySceneDetect.

May import options, geometry, errors.
""",
    "masks/__init__.py": """Make the masks of a clip: detectors find, segmenters outline, tracking follows, `refine` shapes, `store` keeps.

May import manifest, video, storage and what lies below them.
""",
    "masks/detectors/__init__.py": """Find objects in one frame: YOLO by torch or ONNX, open vocabulary, text, a station's overlay.

May import the mask store, weights and refine; `yolo` and `onnx_export` import ultralytics.
""",
    "masks/segmenters/__init__.py": """Outline objects: SAM from boxes and points, SAM 2 with its memory.

May import detectors and what they may; `sam` and `sam2_memory` import ultralytics.
""",
    "masks/tracking/__init__.py": """Follow objects from frame to frame: trackers, SAM 2 memory, skipped frames, smoothed masks.

May import segmenters, detectors and what they may; `trackers` imports ultralytics.
""",
    "plan/__init__.py": """Decide where the work is: a job's output canvas, and the regions and windows of a clip. Pure functions.

May import masks (types), manifest, video (types) and what lies below them.
""",
    "background/__init__.py": """Recover the pixels under a mask from other frames of the same shot.

May import plan, masks, video and what lies below them.
""",
    "vcu/__init__.py": """Build the Video Condition Unit (VCU) of one window: tasks, references and control videos.

Only `controls` imports torch. May import background (patches), plan, masks, video and what lies below them.
""",
    "vace/__init__.py": """Run VACE on VCUs: model profiles, weights, LoRAs, engine. Only this room imports diffusers and transformers.

`profiles`, `weights`, `loras` and `sizing` import no torch. May import vcu and what lies below it.
""",
    "stitch/__init__.py": """Put generated frames back into the source's: cross-fade, colour, grain, feather.

May import background, plan, masks, video and what lies below them.
""",
    "quality/__init__.py": """Measure a finished clip, judge it, and name the next remedy; from pixels alone.

May import what stitch may, and not stitch.
""",
    "ledger/__init__.py": """Keep the records of an output folder: what is done, failed, planned and spent. Any number of writers.

May import storage, quality (verdict), manifest and what lies below them.
""",
    "steps/__init__.py": """Take one clip step by step: prepare, build, generate, stitch, measure, settle, keep.

Knows no Ray. May import every room of the way of the data.
""",
    "run/__init__.py": """Run one batch: plan it, drive it, watch it; dry run, calibration and machine check.

May import steps, cluster, ledger and what lies below them.
""",
    "cli/__init__.py": """The command line: options, how they are parsed, and one module a command.

May import every room.
""",
    "storage/__init__.py": """Read and write files by URI: atomic publish, exclusive create, retries, node cache, allowed roots.

May import errors, log, redact.
""",
    "../recipes/__init__.py": """How the weights that the package ships were made: the embedded model and the demo's detector. Not in the wheel.
""",
    "../recipes/tiny_model/__init__.py": """Train the embedded model's VAE, text encoder, base and context branch, and package them.
""",
}
"""Docstrings of the rooms; none of them exports anything, so that a module is imported from where it is."""

DROP_DUP = {"_LOG"}  # made anew in each file that needs it


def dotted(path: str) -> str:
    """`steps/build.py` -> `vace_batch.steps.build.build`; `../recipes/x.py` -> `recipes.x`."""
    name = path.removeprefix("../") if path.startswith("../") else "vace_batch/" + path
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def file_of(path: str) -> Path:
    return ROOT / (path.removeprefix("../") if path.startswith("../") else "vace_batch/" + path)


class Old:
    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self.text = path.read_text()
        self.tree = ast.parse(self.text)
        self.defs: dict[str, ast.stmt] = {}
        self.imports: dict[str, tuple[str, str | None]] = {}
        for node in self.tree.body:
            for name_ in bound(node):
                self.defs[name_] = node
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vace_batch":
                for a in node.names:
                    self.imports[a.asname or a.name] = (node.module, a.name)


def bound(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)]
    if isinstance(node, (ast.AnnAssign, ast.AugAssign)) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


DEFAULT: dict[str, str] = {}  # old dotted -> new path
NEWDEF: dict[tuple[str, str], str] = {}
for old, new in MOVE.items():
    DEFAULT["vace_batch" + ("" if old == "__init__" else "." + old)] = new
for old, (rest, parts) in SPLIT.items():
    DEFAULT["vace_batch." + old] = rest
    for path, names in parts.items():
        for n in names:
            NEWDEF["vace_batch." + old, n] = path
OLD: dict[str, Old] = {}


def load() -> None:
    for path in sorted((ROOT / "vace_batch").rglob("*.py")):
        rel = path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__")
        OLD[rel.replace("/", ".")] = Old(rel.replace("/", "."), path)
    missing = set(OLD) - set(DEFAULT)
    extra = set(DEFAULT) - set(OLD)
    if missing or extra:
        sys.exit(f"not mapped: {missing}; not there: {extra}")
    for (mod, name), _ in NEWDEF.items():
        if name not in OLD[mod].defs:
            sys.exit(f"{mod} has no {name}")


TESTMOD = {f"tests.{old}": f"tests/{new}" for old, new in TESTS.items()}


def home(mod: str, name: str, seen: int = 0) -> tuple[str, str] | None:
    """New dotted module and name of `mod.name`; (module, "") where it is itself a module."""
    if f"{mod}.{name}" in DEFAULT and not (mod in OLD and (name in OLD[mod].defs or name in OLD[mod].imports)):
        return dotted(DEFAULT[f"{mod}.{name}"]), ""
    if mod not in OLD:
        return None
    old = OLD[mod]
    if name in old.defs:
        return dotted(NEWDEF.get((mod, name)) or DEFAULT[mod]), name
    if name in old.imports and seen < 6:
        return home(*old.imports[name], seen + 1)
    return None


PREFERRED = {"vace_batch.storage.files.files": "storage"}
report: list[str] = []


def names_used(tree: ast.AST) -> set[str]:
    """Every name that a file binds or uses other than by attribute."""
    out: set[str] = set()
    for n in ast.walk(tree):
        if isinstance(n, ast.Name):
            out.add(n.id)
        elif isinstance(n, ast.arg):
            out.add(n.arg)
        elif isinstance(n, (ast.FunctionDef, ast.ClassDef)):
            out.add(n.name)
        elif isinstance(n, ast.alias):
            out.add((n.asname or n.name).split(".")[0])
        elif isinstance(n, ast.ExceptHandler) and n.name:
            out.add(n.name)
    return out


def grouped(imports: list[str]) -> list[str]:
    """Imports of one module as one statement."""
    by: dict[str, list[str]] = defaultdict(list)
    for line in imports:
        module, _, names = line.partition(" import ")
        by[module].append(names)
    return [f"{module} import {', '.join(names)}" for module, names in by.items()]


def import_line(module: str, name: str, asname: str | None) -> str:
    return f"from {module} import {name}" + (f" as {asname}" if asname and asname != name else "")


def module_import(module: str, asname: str | None) -> str:
    parent, _, leaf = module.rpartition(".")
    return import_line(parent, leaf, asname)


def rewrite(text: str, label: str, whole_module: bool = True, extra_tree: ast.AST | None = None) -> str:
    """Imports, uses of imported modules and strings of one Python file."""
    tree = ast.parse(text)
    lines = text.splitlines(keepends=True)
    offs = [0]
    for l in lines:
        offs.append(offs[-1] + len(l.encode()))
    data = text.encode()
    pos = lambda ln, col: offs[ln - 1] + col
    edits: list[tuple[int, int, str]] = []
    used = names_used(extra_tree or tree)
    handled: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
            continue
        top = node.module.split(".")[0]
        if top not in ("vace_batch", "tests"):
            continue
        new: list[str] = []
        for a in node.names:
            local = a.asname or a.name
            if top == "tests":
                full = f"{node.module}.{a.name}"
                if full in TESTMOD:  # a module
                    m = TESTMOD[full].removesuffix(".py").replace("/", ".")
                    leaf = m.rpartition(".")[2]
                    new.append(module_import(m, local if leaf != local else None))
                    continue
                m = (
                    TESTMOD[node.module].removesuffix(".py").replace("/", ".")
                    if node.module in TESTMOD
                    else node.module
                )
                new.append(import_line(m, a.name, a.asname))
                continue
            where = home(node.module, a.name)
            if where is None:
                if not (node.module in OLD):
                    report.append(f"{label}: cannot resolve {node.module}.{a.name}")
                new.append(import_line(node.module, a.name, a.asname))
                continue
            module, name = where
            if name:
                new.append(
                    import_line(
                        module,
                        name,
                        a.asname if a.asname != a.name or a.asname is None else (a.asname if a.asname else None),
                    )
                    if not (a.asname and a.asname == a.name)
                    else import_line(module, name, None)
                )
                continue
            # a module as a whole: find what is used of it
            oldmod = f"{node.module}.{a.name}"
            attrs: dict[str, list[ast.Attribute]] = defaultdict(list)
            bare = False
            attr_nodes = {
                id(n.value)
                for n in ast.walk(tree)
                if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == local
            }
            for n in ast.walk(tree):
                if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == local:
                    attrs[n.attr].append(n)
            patched: dict[str, list[ast.Name]] = defaultdict(list)
            patch_ids: set[int] = set()
            for n in ast.walk(tree):
                if (
                    isinstance(n, ast.Call)
                    and isinstance(n.func, ast.Attribute)
                    and n.func.attr in ("setattr", "delattr")
                    and n.args
                    and isinstance(n.args[0], ast.Name)
                    and n.args[0].id == local
                    and isinstance(n.args[1], ast.Constant)
                ):
                    patched[n.args[1].value].append(n.args[0])
                    patch_ids.add(id(n.args[0]))
            for n in ast.walk(tree):
                if isinstance(n, ast.Name) and n.id == local and id(n) not in attr_nodes and id(n) not in patch_ids:
                    bare = True
            targets: dict[str, list[str]] = defaultdict(list)
            for attr in [*attrs, *patched]:
                w = home(oldmod, attr)
                targets[w[0] if w and w[1] else module].append(attr)
            if not targets:
                targets[module] = []
            if bare and len(targets) > 1:
                report.append(f"{label}: {oldmod} is used bare and split: {list(targets)}")
            for t, names in targets.items():
                leaf = PREFERRED.get(t, t.rpartition(".")[2])
                is_split = len(targets) > 1 or oldmod.removeprefix("vace_batch.") in SPLIT
                as_names = (
                    is_split
                    and not bare
                    and not any(x in patched for x in names)
                    and all((home(oldmod, x) or ("", x))[1] not in used or x == local for x in names)
                    and names
                )
                if as_names and all(home(oldmod, x) and home(oldmod, x)[1] for x in names):
                    for x in dict.fromkeys(names):
                        new.append(import_line(t, home(oldmod, x)[1], None))
                        for n in attrs[x]:
                            edits.append(
                                (
                                    pos(n.value.lineno, n.value.col_offset),
                                    pos(n.end_lineno, n.end_col_offset),
                                    home(oldmod, x)[1],
                                )
                            )
                    continue
                asname = leaf if (leaf == local or leaf not in used) and not bare else local
                if len(targets) > 1 and asname == local and leaf != local:
                    asname = f"{leaf}_step" if ".steps." in t else f"{leaf}_module"
                if bare and leaf != local:
                    report.append(f"{label}: bare {local} -> {t}")
                if len(targets) > 1 and asname == local and leaf != local:
                    report.append(f"{label}: {oldmod} split, name {leaf} taken, as {local}")
                new.append(module_import(t, asname))
                if asname != local:
                    for x in names:
                        for n in attrs.get(x, []):
                            edits.append(
                                (
                                    pos(n.value.lineno, n.value.col_offset),
                                    pos(n.value.end_lineno, n.value.end_col_offset),
                                    asname,
                                )
                            )
                        for n in patched.get(x, []):
                            edits.append((pos(n.lineno, n.col_offset), pos(n.end_lineno, n.end_col_offset), asname))
        start, end = pos(node.lineno, node.col_offset), pos(node.end_lineno, node.end_col_offset)
        tail_end = data.find(b"\n", end)
        tail = data[end:tail_end].decode()
        indent = " " * node.col_offset
        uniq = grouped(list(dict.fromkeys(new)))
        if "noqa" in tail:
            edits.append((start, tail_end, f"\n{indent}".join(u + tail for u in uniq)))
        else:
            edits.append((start, end, f"\n{indent}".join(uniq)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for a in node.names:
                if a.name.startswith(("vace_batch.", "tests.")):
                    report.append(f"{label}: plain import {a.name}")
    for tok in tokenize.tokenize(io.BytesIO(data).readline):
        if tok.type in (tokenize.STRING, tokenize.COMMENT):
            s = strings(tok.string)
            if s != tok.string:
                # token columns are in characters
                st = offs[tok.start[0] - 1] + len(lines[tok.start[0] - 1][: tok.start[1]].encode())
                en = offs[tok.end[0] - 1] + len(lines[tok.end[0] - 1][: tok.end[1]].encode())
                edits.append((st, en, s))
    for st, en, s in sorted(edits, reverse=True):
        data = data[:st] + s.encode() + data[en:]
    return data.decode()


MODULE = re.compile(r"(?<![\w./-])vace_batch(?:\.[a-z_]+)+")
TEST = re.compile(r"(?<![\w./-])tests(?:\.[a-z_0-9]+)+")


def strings(text: str) -> str:
    """Dotted modules and paths in a text."""

    def module(m: re.Match[str]) -> str:
        parts = m.group().split(".")
        for n in range(len(parts), 1, -1):
            mod = ".".join(parts[:n])
            if mod in DEFAULT:
                rest = parts[n:]
                if rest and (mod, rest[0]) in NEWDEF:
                    return ".".join([dotted(NEWDEF[mod, rest[0]]), *rest])
                after = text[m.end() : m.end() + 40]
                attr = re.match(r"[.:]?(_?[A-Za-z_]+)", after)
                return ".".join([dotted(DEFAULT[mod]), *rest])
        return m.group()

    def test(m: re.Match[str]) -> str:
        parts = m.group().split(".")
        for n in range(len(parts), 1, -1):
            if ".".join(parts[:n]) in TESTMOD:
                return ".".join([TESTMOD[".".join(parts[:n])].removesuffix(".py").replace("/", "."), *parts[n:]])
        return m.group()

    text = TEST.sub(test, MODULE.sub(module, text))

    def path(m: re.Match[str]) -> str:
        mod = m.group(1).replace("/", ".")
        if mod in DEFAULT:
            p = DEFAULT[mod]
            return p.removeprefix("../") if p.startswith("../") else "vace_batch/" + p
        return TESTMOD.get(mod, m.group())

    return re.sub(r"(?<![\w.-])((?:vace_batch|tests)/[\w/]+)\.py\b", path, text)


def segments(old: Old) -> tuple[str, list[tuple[ast.stmt, str]]]:
    """The head (docstring and imports) of a module, and each other statement with the comments before it."""
    lines = old.text.splitlines(keepends=True)
    body = old.tree.body
    head_end, out, first = 0, [], True
    last = 0
    for node in body:
        is_head = (
            isinstance(node, (ast.Import, ast.ImportFrom))
            or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and not out)
            or (isinstance(node, ast.Expr) and "environ" in ast.dump(node) and not out)
            or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        )
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        if is_head and not out:
            last = head_end = node.end_lineno
            continue
        out.append((node, "".join(lines[last : node.end_lineno])))
        last = node.end_lineno
    tail = "".join(lines[last:]).strip()
    if tail:
        report.append(f"{old.name}: trailing {tail[:50]}")
    return "".join(lines[:head_end]), out


def free(nodes: list[ast.stmt]) -> set[str]:
    return {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)} | {
        w
        for node in nodes
        for n in ast.walk(node)
        if isinstance(n, ast.Constant) and isinstance(n.value, str)
        for w in re.findall(r"\b[A-Za-z_]\w+\b", n.value)
        if len(n.value) < 80
    }


def split(old: Old) -> dict[str, tuple[str, str]]:
    """New path -> (head with imports, body) of a module that is split; still with the old imports."""
    rest, parts = SPLIT[old.name.removeprefix("vace_batch.")]
    head, segs = segments(old)
    where: dict[str, list[tuple[ast.stmt, str]]] = defaultdict(list)
    prev = rest
    for node, text in segs:
        names = bound(node)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            target = prev  # the docstring of the constant before
        elif names:
            target = NEWDEF.get((old.name, names[0]), rest)
        elif isinstance(node, (ast.AugAssign,)):
            target = NEWDEF.get((old.name, node.target.id), rest)
        else:
            target = rest
            report.append(f"{old.name}: statement at {node.lineno} without a name stays")
        prev = target
        text = re.sub(r"^# --- .*\n+", "", text, flags=re.M)
        where[target].append((node, text))
    doc = ast.get_docstring(old.tree, clean=False)
    imports = head
    out = {}
    body0 = old.tree.body[0]
    doc_end = body0.end_lineno
    import_text = "".join(head.splitlines(keepends=True)[doc_end:])
    home_of = {n: NEWDEF.get((old.name, n), rest) for n in old.defs}
    for path in {rest, *parts}:
        nodes = [n for n, _ in where[path]]
        need = free(nodes)
        cross = []
        for n in sorted(need):
            if n in home_of and home_of[n] != path:
                if n in DROP_DUP:
                    continue
                cross.append(f"from {old.name} import {n}\n")  # rewritten by definition below
                if n.startswith("_"):
                    report.append(f"{old.name}: {path} takes the private {n} of {home_of[n]}")
        own = "".join(t for _, t in where[path])
        if "_LOG" in need and "_LOG" in old.defs and home_of["_LOG"] != path:
            own = "\n_LOG = log.get_logger(__name__)\n" + own
        out[path] = (import_text + "".join(cross), own)
    return out


def git(*a: str) -> None:
    subprocess.run(["git", *a], check=True, cwd=ROOT)


def merge_imports(text: str, extra: str) -> str:
    """Put `extra` imports behind the top-level imports of a module."""
    tree = ast.parse(text)
    last = 0
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            last = node.end_lineno
        elif not (isinstance(node, ast.Expr)):
            break
    lines = text.splitlines(keepends=True)
    return "".join(lines[:last]) + extra + "".join(lines[last:])


RENAMED = {
    "_checked_detector": "checked_detector",
    "_text_finder": "text_finder",
    "_plan_table": "plan_table",
    "_PLAN_SCHEMA": "PLAN_SCHEMA",
    "_AT_ONCE": "ROWS_AT_ONCE",
    "_dump": "as_json",
}
PUBLIC = (
    "masks/clip.py",
    "masks/models.py",
    "ledger/summary.py",
    "ledger/run_plan.py",
    "ledger/ledger.py",
    "ledger/results.py",
)
"""Names that were private in a module that is split, and are used across its parts now."""


def without_own_imports(text: str, own: str) -> str:
    """Drop what a merged module would import from itself."""
    lines = text.splitlines(keepends=True)
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and node.module == own:
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return "".join(lines)


def main() -> None:
    load()
    rewritten: dict[str, str] = {}
    pieces: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, old in OLD.items():
        short = name.removeprefix("vace_batch.") if name != "vace_batch" else "__init__"
        if short not in SPLIT:
            rewritten[DEFAULT[name]] = rewrite(old.text, name)
            continue
        doc_src = "".join(old.text.splitlines(keepends=True)[: old.tree.body[0].end_lineno])
        for path, (imports, body) in split(old).items():
            imports = imports.replace("from __future__ import annotations\n", "")
            marker = "\n#=====BODY=====\n"
            text = rewrite(imports + marker + body, f"{name} -> {path}", extra_tree=None)
            # own definitions imported from the old module itself
            imp, body = text.split(marker)
            if path == SPLIT[short][0]:
                rewritten[path] = strings(doc_src) + "\nfrom __future__ import annotations\n" + imp + "\n" + body
            else:
                pieces[path].append((imp, body))
    for path, parts in pieces.items():
        if path in rewritten:
            text = rewritten[path]
        else:
            text = f'"""{DOCS[path]}"""\n\nfrom __future__ import annotations\n'
        for imp, body in parts:
            text = merge_imports(text, imp) + "\n\n" + body.strip("\n") + "\n"
        rewritten[path] = without_own_imports(text, dotted(path))
    for path in PUBLIC:
        for old_name, new_name in RENAMED.items():
            rewritten[path] = re.sub(rf"(?<!\.)\b{old_name}\b", new_name, rewritten[path])
    others = {
        p: rewrite(p.read_text(), str(p.relative_to(ROOT)))
        for top in ("flows", "benchmarks", "tests", ".ci")
        for p in sorted((ROOT / top).rglob("*.py"))
    }
    texts = {}
    for p in subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.split():
        if (
            p.endswith(
                (".md", ".toml", ".yaml", ".json", ".j2", "Makefile", "run", ".html", ".css", "set-up", "Dockerfile")
            )
            and p != "CHANGELOG.md"
        ):
            t = (ROOT / p).read_text()
            s = strings(t)
            if s != t:
                texts[ROOT / p] = s
    # the files themselves
    for name, old in OLD.items():
        target = file_of(DEFAULT[name])
        target.parent.mkdir(parents=True, exist_ok=True)
    # packages and modules of one name: move by way of a name that nobody has
    steps = [(old.path, file_of(DEFAULT[name])) for name, old in OLD.items() if old.path != file_of(DEFAULT[name])]
    steps += [
        (ROOT / "tests" / (o.replace(".", "/") + ".py"), ROOT / "tests" / n)
        for o, n in TESTS.items()
        if o.replace(".", "/") + ".py" != n
    ]
    for n, (a, b) in enumerate(steps):
        git("mv", str(a), str(ROOT / f"vace_batch/moving-{n}"))
    for n, (a, b) in enumerate(steps):
        b.parent.mkdir(parents=True, exist_ok=True)
        git("mv", str(ROOT / f"vace_batch/moving-{n}"), str(b))
    for path, text in rewritten.items():
        file_of(path).parent.mkdir(parents=True, exist_ok=True)
        file_of(path).write_text(text)
    testpath = {ROOT / "tests" / (o.replace(".", "/") + ".py"): ROOT / "tests" / n for o, n in TESTS.items()}
    for path, doc in ROOMS.items():
        code = '\n__version__ = "0.1.0"\n' if path == "__init__.py" else ""
        file_of(path).write_text(f'"""{doc}"""\n{code}')
    git("add", "-A")
    for p, text in others.items():
        testpath.get(p, p).write_text(text)
    for p, text in texts.items():
        p.write_text(text)
    print("\n".join(report))


main()
