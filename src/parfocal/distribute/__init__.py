"""Share the slides or trainings of a command among processes, through its output folder alone."""
