"""What runs trials: compiled plants, or worker processes with host simulators. Imports no JAX."""
