"""The report: a static page of a run, for a browser that reads it from a file or from an object store."""
