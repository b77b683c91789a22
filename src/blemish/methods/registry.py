"""The methods, by the name they have on the command line. Importing this imports torch."""

from blemish.methods.baselines.ae_l2 import AeL2
from blemish.methods.baselines.ae_ssim import AeSsim
from blemish.methods.baselines.cutpaste import CutPaste
from blemish.methods.baselines.kde import Kde
from blemish.methods.baselines.pca import Pca
from blemish.methods.baselines.texture_inspection import TextureInspection
from blemish.methods.baselines.variation import Variation
from blemish.methods.cpc_ad import CpcAd
from blemish.methods.metal import Metal

METHODS = {
    "metal": Metal,
    "cpc-ad": CpcAd,
    "pca": Pca,
    "kde": Kde,
    "variation": Variation,
    "texture-inspection": TextureInspection,
    "ae-l2": AeL2,
    "ae-ssim": AeSsim,
    "cutpaste": CutPaste,
}
