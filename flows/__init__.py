"""Prefect flows over vace_batch: the only place that imports Prefect."""
