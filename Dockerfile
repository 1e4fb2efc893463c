# Style Transfer Studio in a container: `--target cpu` for any host, `--target gpu` for a host with an NVIDIA driver.
# Only the volume /data changes. The rest can be read-only. The container needs no network.
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS base
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --home-dir /data --no-create-home --shell /usr/sbin/nologin studio \
 && install --directory --owner=studio --group=studio /data
ENV PATH=/opt/studio/.venv/bin:$PATH \
    HOME=/data \
    NST_HOME=/data \
    KERAS_HOME=/opt/studio/models/keras \
    PYTHONDONTWRITEBYTECODE=1 \
    NST_METRICS_ADDRESS=0.0.0.0 \
    STREAMLIT_SERVER_ADDRESS=0.0.0.0 \
    STREAMLIT_SERVER_ALLOWED_HOSTS=* \
    STREAMLIT_SERVER_HEADLESS=true
WORKDIR /opt/studio

FROM base AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv .venv

# This stage also prepares the models (nst prepare); the GPU image copies them.
FROM build AS build-cpu
COPY requirements.lock .
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable . \
 && nst prepare \
 && rm .venv/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime_providers_cuda.so \
 && python -m compileall -q .

FROM build AS build-gpu
COPY requirements-gpu.lock .
RUN pip install --no-cache-dir --require-hashes --requirement requirements-gpu.lock
COPY . .
COPY --from=build-cpu /opt/studio/models models
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable . \
 && python -m compileall -q .

FROM base AS served
USER studio
VOLUME /data
EXPOSE 8501
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=4)"]
ENTRYPOINT ["nst"]
CMD ["dashboard"]

FROM served AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-gpu /opt/studio /opt/studio

FROM served AS cpu
COPY --from=build-cpu /opt/studio /opt/studio
