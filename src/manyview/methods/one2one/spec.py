"""The one-to-one baseline: Zero123's scheme at our sizes. Loads no torch."""

from __future__ import annotations

NAME = "one2one"
TITLE = "Zero-1-to-3: Zero-shot One Image to 3D Object (the scheme, not the weights)"
AUTHORS = "Liu, Wu, Van Hoorick, Tokmakov, Zakharov, Vondrick"
VENUE = "ICCV 2023"
ACCEPTS = "one view and the relative camera of the wanted one (on a sphere about the object)"
GIVES = "one view a draw; several are drawn independently of each other"
NEEDS_CAMERAS = True
PROTOCOL = "orbit4"

# As the DiMViS paper measured Zero123-XL (its Table 1), one reference, guidance 3, 256 px.
PAPER_RESULTS = {1: {"guidance": 3.0, "psnr": 16.13, "ssim": 0.772, "lpips_vgg": 0.181}}

PRESETS = {"compact": "128 px, the U-Net, codec, data and compute of compact DiMViS"}
