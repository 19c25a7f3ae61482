"""Packaging of lavis_mafa. Extras only add: pip cannot swap one dependency for another."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
INIT = (ROOT / "lavis_mafa" / "__init__.py").read_text(encoding="utf-8")
README = ROOT / "README.md"

BASE = [
    "torch>=2.4",
    "torchvision",
    "numpy>=1.26",
    "pandas>=2.0",
    "pyarrow>=15",
    "safetensors>=0.4",
    "pillow>=10",
    "tqdm",
    "matplotlib>=3.7",
    "Jinja2>=3.1",
    "omegaconf>=2.4",
    "PyYAML>=6.0",
]

RAY = "ray[data]>=2.9"

EXTRAS = {
    # LAVIS and what fits beside it: its OpenCV wheel needs NumPy 1, and pyarrow 26 needs NumPy 2.
    "lavis": [
        "salesforce-lavis==1.0.2",
        "numpy<2",
        "pyarrow<26",
        "transformers==4.26.1",
        "timm==0.4.12",
        "open_clip_torch==2.32.0",
        "tensorboard>=2.14",
    ],
    # Without LAVIS, whose timm is too old for it. Its training reads shards by webdataset.
    "openclip": ["open_clip_torch>=3.0", "webdataset>=0.2.5", "braceexpand"],
    "cpu": ["faiss-cpu>=1.8"],
    "gpu": ["faiss-gpu>=1.15.1"],  # brings NVIDIA's cu12 runtime, cuBLAS and cuRAND
    "ray": [RAY],
    "eccv": ["eccv_caption>=0.1.0"],
    "dev": [
        RAY,  # the tests start a local cluster
        "eccv_caption>=0.1.0",
        "pytest>=8",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "ruff>=0.9",
        "mypy>=1.13",
        "pandas-stubs",
        "types-PyYAML",
        "types-tqdm",
        "setuptools>=68",
    ],
}

setup(
    name="lavis_mafa",
    version=re.search(r'__version__ = "(.+?)"', INIT).group(1),
    description="MAFA for LAVIS: vision-language pre-training that manages its false negatives",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    author="The lavis_mafa authors",
    license="BSD-3-Clause",
    python_requires=">=3.10",
    packages=find_packages(include=["lavis_mafa", "lavis_mafa.*"]),
    package_data={"lavis_mafa": [f"**/*.{suffix}" for suffix in ("yaml", "safetensors", "txt", "j2", "md", "json")]},
    install_requires=BASE,
    extras_require=EXTRAS,
)
