"""Numbers about images and views; a metric's name holds its definition."""

from manyview.metrics.bootstrap import bootstrap_mean as bootstrap_mean
from manyview.metrics.consistency import Reprojection as Reprojection
from manyview.metrics.consistency import neighbour_l1 as neighbour_l1
from manyview.metrics.consistency import reprojection_l1 as reprojection_l1
from manyview.metrics.diversity import mean_pairwise_distance as mean_pairwise_distance
from manyview.metrics.diversity import pixel_std as pixel_std
from manyview.metrics.image import psnr as psnr
from manyview.metrics.image import ssim_gauss as ssim_gauss
from manyview.metrics.image import ssim_skimage as ssim_skimage
from manyview.metrics.perceptual import load_lpips_vgg as load_lpips_vgg
from manyview.metrics.perceptual import load_stlpips as load_stlpips
from manyview.metrics.perceptual import lpips_vgg as lpips_vgg
from manyview.metrics.perceptual import stlpips_alex as stlpips_alex
from manyview.metrics.perceptual import stlpips_vgg as stlpips_vgg
from manyview.metrics.report import Estimate as Estimate
from manyview.metrics.report import Skipped as Skipped
from manyview.metrics.report import format_table as format_table
