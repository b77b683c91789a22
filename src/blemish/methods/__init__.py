"""The methods, by the name they have on the command line. Importing this imports torch."""

from blemish.methods.baselines.pca import Pca
from blemish.methods.cpc_ad import CpcAd
from blemish.methods.metal import Metal

METHODS = {
    "metal": Metal,
    "cpc-ad": CpcAd,
    "pca": Pca,
}
