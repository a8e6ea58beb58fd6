"""Monodepth2's networks (Godard et al. 2019, arXiv 1806.01260): disparity of one image, motion between
two."""
