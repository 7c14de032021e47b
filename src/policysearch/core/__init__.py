"""The parts of a method and what they work on: specification, rollouts, policies, controllers, explore to step."""
