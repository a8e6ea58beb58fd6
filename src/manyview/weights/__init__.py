"""Where weights come from: the compact bundles in the package, a folder, or a hub."""

from manyview.weights.bundle import Bundle as Bundle
from manyview.weights.bundle import component_hash as component_hash
from manyview.weights.bundle import open_bundle as open_bundle
from manyview.weights.bundle import write_bundle as write_bundle
