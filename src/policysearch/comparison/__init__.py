"""Methods compared on one task: a grid of searches, each method with the same seeds, budget and evaluation seeds."""
