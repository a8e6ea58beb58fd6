"""Looking at scenes and results: a live page (viser) and a single file that needs nothing (our own page)."""
