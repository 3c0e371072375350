"""What trainings left in their work directories, as one page: see `tools/report.py`."""
