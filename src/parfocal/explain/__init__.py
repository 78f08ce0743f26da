"""A prediction -> something to look at: its record, and a map over the slide."""
