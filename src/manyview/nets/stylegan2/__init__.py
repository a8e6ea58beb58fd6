"""StyleGAN2 (Karras et al. 2020, arXiv 1912.04958) in plain torch, at compact and at published sizes."""
