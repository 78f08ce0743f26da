"""Sources of a slide's bytes: local files, and files far away that are read by position."""
