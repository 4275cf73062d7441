"""`python -m vace_batch` is `vace-batch`."""

from vace_batch.cli.app import main

main()
