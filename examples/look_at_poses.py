"""Says in JSON where the beads of a simulated guest are: an executable, which knows nothing of RHAPSODY.

python look_at_poses.py POSES.npy
"""

from __future__ import annotations

import json
import sys

import numpy as np


def main(path: str) -> None:
    """Print what the poses in a file, as `(walker, bead, axis)`, have in common; the host's waist is at height 0."""
    poses = np.load(path)
    heights = poses[:, :, 2]
    bonds = np.linalg.norm(poses[:, 0] - poses[:, 1], axis=1)
    print(
        json.dumps(
            {
                "walkers": len(poses),
                "both_sides": float((heights[:, 0] * heights[:, 1] < 0).mean()),
                "bond": float(bonds.mean()),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
