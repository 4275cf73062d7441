"""Prefect flows over vace_batch: the only place that imports Prefect."""

import os

from vace_batch import log

# Before Prefect is imported, which reads these once.
log.quiet_environment()
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_ENABLED", "true")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
