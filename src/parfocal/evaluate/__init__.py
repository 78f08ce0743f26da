"""A trained model over a cohort -> metrics with intervals."""
