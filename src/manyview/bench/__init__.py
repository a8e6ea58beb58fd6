"""The papers' protocols: who is asked what, how answers are scored, and tables with intervals."""
