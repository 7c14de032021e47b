"""Pictures, videos and reports of runs."""
