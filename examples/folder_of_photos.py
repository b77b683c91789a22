"""Learn from a folder of good photos, then say which new photos show a defect.

    python examples/folder_of_photos.py

The photos are drawn by the program itself: a turned steel disc with bolt holes. Put your own folder in
their place. Everything lies in a temporary folder, which is removed at the end.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import blemish
from blemish.data.synthetic import generate
from blemish.methods.baselines.pca import PcaConfig

FALSE_ALARMS = 0.1
"""Reject at most this share of good parts, on average."""


def learn(good: Path, run: Path) -> blemish.Detector:
    """Train PCA, which takes seconds. For real parts leave out method and config: `auto` then chooses."""
    # A quarter of the good photos is held out. They set the threshold, and take no part in the training.
    config = PcaConfig(components=15, image_score="max", calibration_fraction=0.25)
    return blemish.fit(good, method="pca", config=config, out=run, device="cpu", seed=0)


def show(detector: blemish.Detector, photos: list[Path]) -> int:
    """Print a line for each photo, and return how many are rejected."""
    rejected = 0
    for answer in detector.predict_many(photos):
        if isinstance(answer, blemish.ImageError):
            print(f"  not read: {answer}")
            continue
        rejected += bool(answer.anomalous)
        decision = "rejected" if answer.anomalous else "accepted"
        places = ", ".join(f"x {r.x0} to {r.x1} y {r.y0} to {r.y1}" for r in answer.regions[:2])
        name = "/".join(Path(answer.path or "").parts[-2:])
        print(f"  {name:<18} score {answer.score:.5f}  p {answer.p_value:.3f}  {decision}  {places}")
    return rejected


def main() -> None:
    """Make photos, train, choose a false-alarm rate, predict."""
    with TemporaryDirectory() as folder:
        data = generate(Path(folder) / "disc", n_train=60, n_good=6, n_defect=4, size=128)
        print("1. Learning from 60 good photos")
        detector = learn(data / "train" / "good", Path(folder) / "run")

        # The run folder is all that is needed later, on this machine or on another one.
        detector = blemish.load(Path(folder) / "run", false_alarm_rate=FALSE_ALARMS, device="cpu")
        print(f"2. A part is rejected above score {detector.threshold:.5f}: {FALSE_ALARMS:.0%} false alarms")

        print("3. New photos of good parts")
        good = show(detector, sorted((data / "test" / "good").glob("*.png")))
        print("4. New photos of parts with a piece missing")
        defects = show(detector, sorted((data / "test" / "missing").glob("*.png")))
        print(f"Rejected: {good} of 6 good parts, {defects} of 4 defective parts")


if __name__ == "__main__":
    main()
