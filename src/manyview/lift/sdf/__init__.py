"""Signed distance fields rendered as NeuS does: the model and the fit to posed views with masks."""
