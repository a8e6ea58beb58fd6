"""Self-calibrated latent refinement: view-consistent codes of a 2-D GAN (see README.md here)."""
