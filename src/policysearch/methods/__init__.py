"""Methods by name: their settings, the rule for what is left open, how each is built, and where a search starts."""
