"""Sources of a slide's bytes: local files, and remote files that are read by position."""
