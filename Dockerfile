# Two images from one file:
#   docker build --target api    --tag finetooth-api .      the API, migrations and the io queue; no torch
#   docker build --target worker --tag finetooth-worker .   the gpu queue; on Linux x86-64 torch brings CUDA with it

FROM python:3.12-slim-bookworm AS base
ENV PATH=/opt/finetooth/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    FINETOOTH_DATA_DIR=/data \
    FINETOOTH_CACHE_DIR=/cache
# The first process of a container, which reaps what a killed child leaves behind. It keeps the passwords of its
# environment for as long as it lives, so nobody may read its program: the kernel then keeps its environment from
# everybody but root, as the service does for itself.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini=0.19.* \
    && rm -rf /var/lib/apt/lists/* \
    && chmod 0711 /usr/bin/tini
ENTRYPOINT ["tini", "--"]
# A fresh named volume takes the owner and mode of the folder it is mounted on.
RUN groupadd --gid 10001 finetooth \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /cache --shell /usr/sbin/nologin finetooth \
    && install --directory --owner=10001 --group=10001 --mode=0700 /data /cache

# Dependencies before code, so that a change of code builds in seconds. An extra that names another of the project
# would be asked of the registry: each is named here, and a test holds that none is missing.
FROM base AS dependencies
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /build
RUN python -m venv /opt/finetooth
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -c "import tomllib; extras = tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']; \
        lines = [line for extra in ('client', 'service', 's3') for line in extras[extra]]; \
        print(*(line for line in lines if not line.startswith('finetooth[')), sep='\n')" \
        > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt

FROM dependencies AS worker-dependencies
RUN --mount=type=cache,target=/root/.cache/pip \
    python -c "import tomllib; extras = tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']; \
        lines = [line for extra in ('recorder', 'statistics', 'trainer', 'worker') for line in extras[extra]]; \
        print(*(line for line in lines if not line.startswith('finetooth[')), sep='\n')" \
        > worker-requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt --requirement worker-requirements.txt

# Its own environment: the build backend does not belong into the images.
FROM base AS package
WORKDIR /build
RUN python -m venv /opt/finetooth
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt "setuptools>=80"
COPY pyproject.toml README.md LICENSE ./
COPY finetooth finetooth
COPY service service
COPY worker worker
COPY migrations migrations
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM base AS api
COPY --from=dependencies /opt/finetooth /opt/finetooth
RUN --mount=type=bind,from=package,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps /wheels/*.whl
# As for tini, for the moments before a program has done it itself, and for HEALTHCHECK, which never does.
RUN chmod 0711 "$(readlink --canonicalize /opt/finetooth/bin/python)"
USER 10001:10001
WORKDIR /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=3)"]
CMD ["python", "-m", "service.server", "0.0.0.0", "8000"]

FROM base AS worker
ENV HF_HOME=/cache/huggingface \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=worker-dependencies /opt/finetooth /opt/finetooth
RUN --mount=type=bind,from=package,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps /wheels/*.whl
USER 10001:10001
WORKDIR /data
CMD ["celery", "-A", "worker.celery_app", "worker", "--loglevel", "INFO", "--pool", "threads", \
    "-c", "1", "-Q", "gpu", "-n", "gpu@%h", "--without-mingle", "--without-gossip"]
