# syntax=docker/dockerfile:1
# The images that the chart runs:
#   docker build --target cpu -t errata:0.1.0 .
#   docker build --target gpu -t errata:0.1.0-gpu .
# EXTRAS names what else an image is to have: --build-arg EXTRAS=kafka,otel,s3
# PIP_EXTRA_INDEX_URL names an index of CPU builds of torch: without it, the CPU image carries CUDA.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
ARG PIP_EXTRA_INDEX_URL=
ARG EXTRAS=
# What is installed is compiled once, here: the image cannot be written, and compiling it at every
# start takes 10 s of a core.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_CACHE_DIR=/var/cache/pip
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential libcap2-bin \
    && rm -rf /var/lib/apt/lists/*
# No pip of its own: what is in this folder is what runs.
RUN python -m venv --without-pip /opt/errata
WORKDIR /src
COPY pyproject.toml README.md ./
COPY errata errata
COPY services services
COPY pipelines pipelines
COPY feature_store feature_store
COPY models models
# The sensor's interpreter: the one file that may read an interface without being root.
RUN cp --dereference /usr/local/bin/python3.11 /opt/errata/bin/python-capture \
    && setcap cap_net_raw+ep /opt/errata/bin/python-capture

FROM build AS build-cpu
ARG TORCH=torch==2.13.0
RUN --mount=type=cache,target=/var/cache/pip \
    pip --python /opt/errata/bin/python install "${TORCH}" ".[cpu${EXTRAS:+,$EXTRAS}]"

FROM build AS build-gpu
RUN --mount=type=cache,target=/var/cache/pip \
    pip --python /opt/errata/bin/python install ".[gpu${EXTRAS:+,$EXTRAS}]"

FROM python:${PYTHON} AS runtime
# libgomp: OpenMP of LightGBM and FAISS. Nothing that installs or escalates stays behind.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && pip uninstall -y pip setuptools wheel \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
    && groupadd --gid 10001 errata \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/errata --shell /usr/sbin/nologin errata \
    && install -d -o errata -g errata /var/lib/errata
ENV PATH=/opt/errata/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ERRATA_HOME=/var/lib/errata
WORKDIR /var/lib/errata
EXPOSE 8000
CMD ["errata", "serve", "--host", "0.0.0.0"]

FROM runtime AS cpu
COPY --from=build-cpu /opt/errata /opt/errata
USER 10001:10001

# The CUDA libraries come in the wheels; the driver, from the node's container runtime.
FROM runtime AS gpu
COPY --from=build-gpu /opt/errata /opt/errata
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
