"""Samples of a run's data that a person should look at: hard, mislabelled, and twice there."""
