"""Inside a worker process: an environment made from its name, first contact, a rollout; and what travels. No JAX."""
