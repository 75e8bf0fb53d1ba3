# The three images of docker-compose.yml: `service` (HTTP, without torch), `worker` (with torch) and `redis`.

FROM python:3.11-slim AS base


# Virtual environments are made here and copied over, so no image holds uv or its cache.
# What is installed is in requirements/, by version and SHA-256 (`make pins`), and nothing beside it (--no-deps).
FROM base AS builder
WORKDIR /src
COPY requirements requirements
RUN python -m pip install --no-cache-dir --root-user-action=ignore --require-hashes -r requirements/build.txt \
    && uv venv --python "$(command -v python)" /opt/venv
# The bytecode is compiled now: the root file system of a running container is read-only.
ENV VIRTUAL_ENV=/opt/venv \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_SYSTEM_CERTS=1


FROM builder AS service-environment
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --no-deps --require-hashes --requirements requirements/service.txt \
    && rm -r /opt/venv/lib/python*/site-packages/onnx/backend/test
COPY . .
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --no-deps --build-constraints requirements/build.txt \
        ./api_schemas ./core ./results ./service


FROM builder AS worker-environment
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --no-deps --require-hashes --requirements requirements/worker.txt
# cpu: the build without CUDA; pypi: the build of the registry, on Linux with CUDA, the only one with hashes; anything
# else is a backend of uv, such as cu128. PyTorch's own index, from which those and cpu come, is asked for torch and what
# belongs to CUDA alone. uv does not read pip's configuration, which may name a folder with a CPU build of torch: where it
# does, that one is taken and PyTorch's index is not needed.
ARG TORCH_BACKEND=cpu
COPY constraints.txt .
RUN --mount=type=cache,target=/root/.cache/uv \
    links=$(python -m pip config --global get global.find-links 2>/dev/null || true); \
    if [ "$TORCH_BACKEND" = pypi ]; then \
        set -- --no-deps --require-hashes --requirements requirements/torch.txt; \
    elif [ "$TORCH_BACKEND" = cpu ] && ls "$links"/torch-*+cpu-*.whl >/dev/null 2>&1; then \
        set -- --no-deps --find-links "$links" torch; \
    elif [ "$TORCH_BACKEND" = cpu ]; then \
        set -- --no-deps --torch-backend cpu torch; \
    else \
        set -- --torch-backend "$TORCH_BACKEND" torch; \
    fi; \
    uv pip install --constraints constraints.txt "$@"
COPY . .
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --no-deps --build-constraints requirements/build.txt \
        ./api_schemas ./client ./core ./launcher ./results ./service ./worker


FROM base AS runtime
RUN groupadd --gid 10001 spectrum \
    && useradd --uid 10001 --gid spectrum --no-create-home --home-dir /tmp --shell /usr/sbin/nologin spectrum \
    && install -d -o spectrum -g spectrum /var/lib/spectrum /var/lib/spectrum/results \
        /var/lib/spectrum/models \
    && install -d -m 0700 -o spectrum -g spectrum /var/lib/spectrum/keys
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SPECTRUM_RESULTS_DIR=/var/lib/spectrum/results
WORKDIR /var/lib/spectrum
USER 10001:10001


FROM runtime AS service
COPY --from=service-environment /opt/venv /opt/venv
EXPOSE 8000
STOPSIGNAL SIGTERM
CMD ["python", "-m", "hessian_spectrum.service", "--host", "0.0.0.0", "--port", "8000"]


FROM runtime AS worker
COPY --from=worker-environment /opt/venv /opt/venv
# Celery takes SIGTERM as a wish to finish its jobs first, however long they take, and SIGQUIT as one to stop.
ENV REMAP_SIGTERM=SIGQUIT
STOPSIGNAL SIGTERM
CMD ["python", "-m", "hessian_spectrum.worker"]


FROM redis:7-alpine AS redis
# A named volume takes the owner of the directory that it covers.
RUN mkdir -p /data && chown 10001:10001 /data
USER 10001:10001
