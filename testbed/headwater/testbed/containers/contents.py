"""Law: a device of the testbed gets the recordings of its own person, and no package that would hold everyone's.

python -m headwater.testbed.containers.contents FOLDER        while an image is built, with seglearn at hand

Of an image's folder a new volume takes over the owner, so there is an empty one for each.
"""

import sys
from pathlib import Path

import numpy as np

from headwater.device.sources.prepared import ARRAYS
from headwater.device.sources.watch import load_watch
from headwater.testbed.containers.places import PERSONS, volumes


def write_contents(folder: Path) -> None:
    """FOLDER/recordings/person-N.npz in the layout of a prepared part, FOLDER/places/VOLUME."""
    for volume in volumes():
        (folder / "places" / volume).mkdir(mode=0o750, parents=True)
    recordings = folder / "recordings"
    recordings.mkdir()
    for person in range(1, PERSONS + 1):
        data = load_watch([person])
        np.savez_compressed(recordings / f"person-{person}.npz", **{name: getattr(data, name) for name in ARRAYS})


if __name__ == "__main__":
    write_contents(Path(sys.argv[1]))
