"""What the Python API and the command line share: from settings to a run and its files."""
