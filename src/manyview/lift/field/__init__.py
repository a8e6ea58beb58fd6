"""Radiance fields: encodings, voxels marched by compiled code, rendering, and the fit to posed views."""
