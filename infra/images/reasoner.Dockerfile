# The reasoning worker with vLLM on a GPU (EXTRA=gpu) or a CPU (EXTRA=cpu), or with inference servers (EXTRA=remote).
# It has neither Faust nor fastText.
# A tag can be moved. To pin what you tested, build with --build-arg PYTHON=python@sha256:DIGEST.
ARG PYTHON=python:3.11.14-slim-bookworm
FROM ${PYTHON} AS build
ARG EXTRA=gpu
COPY infra/requirements/uv.txt infra/requirements/build.txt infra/requirements/reasoner-${EXTRA}.txt /pins/
RUN python -m venv /opt/safeguard \
 && /opt/safeguard/bin/pip install --no-cache-dir --require-hashes -r /pins/uv.txt \
 && /opt/safeguard/bin/uv pip sync --no-cache --python /opt/safeguard/bin/python --require-hashes /pins/reasoner-${EXTRA}.txt
COPY . /source
RUN /opt/safeguard/bin/uv pip install --no-cache --python /opt/safeguard/bin/python --no-deps --build-constraints /pins/build.txt /source

FROM ${PYTHON}
# PyTorch and vLLM compile small kernels at run time and need a compiler.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libnuma1 && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 safeguard && install -d -o safeguard /home/safeguard/.cache
COPY --from=build /opt/safeguard /opt/safeguard
ENV PATH=/opt/safeguard/bin:$PATH
# All that is downloaded or compiled at run time lies in one folder, for one volume beside a root that is read-only.
ENV XDG_CACHE_HOME=/home/safeguard/.cache \
    XDG_CONFIG_HOME=/home/safeguard/.cache/config \
    HF_HOME=/home/safeguard/.cache/huggingface \
    VLLM_CACHE_ROOT=/home/safeguard/.cache/vllm \
    TORCHINDUCTOR_CACHE_DIR=/home/safeguard/.cache/inductor \
    TRITON_CACHE_DIR=/home/safeguard/.cache/triton \
    CUDA_CACHE_PATH=/home/safeguard/.cache/cuda \
    FLASHINFER_WORKSPACE_BASE=/home/safeguard/.cache
USER safeguard
WORKDIR /home/safeguard
ENTRYPOINT ["safeguard"]
