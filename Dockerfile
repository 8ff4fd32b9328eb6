# Optimus in a container, with the demo model inside.
#
#   docker build -t optimus .                          for NVIDIA GPUs
#   docker build -t optimus --build-arg TORCH=cpu .    without one, gigabytes smaller
#
#   docker run --gpus all --shm-size 1g --stop-timeout 100 -p 8080:80 -v $PWD/data:/data optimus
#   docker run ... optimus --model-id /data/my-model --api-key secret
#
# The stop timeout leaves running answers the 90 s of --graceful-termination-timeout; docker's own is 10 s.

FROM debian:bookworm-slim AS build
# Which build of PyTorch: cpu, or a CUDA version as PyTorch's package index names it.
ARG TORCH=cu128
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/optimus
RUN /opt/optimus/bin/pip install --no-cache-dir "torch>=2.11,<=2.13.0" --index-url "https://download.pytorch.org/whl/${TORCH}"
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY kernels kernels
COPY ui ui
COPY migrations migrations
RUN /opt/optimus/bin/pip install --no-cache-dir .

FROM debian:bookworm-slim
ARG TORCH=cu128
# Triton compiles its launchers when it first needs them; on a CPU nothing does.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 \
      $([ "$TORCH" = cpu ] || echo gcc libc6-dev python3-dev) \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 1000 --create-home optimus && mkdir /data && chown optimus /data
COPY --from=build /opt/optimus /opt/optimus
ENV PATH=/opt/optimus/bin:$PATH HF_HOME=/data PORT=80 JSON_OUTPUT=true PYTHONUNBUFFERED=1 \
    XDG_STATE_HOME=/data OPTIMUS_LOG_DB=/data/log/log.db
USER optimus
WORKDIR /data
VOLUME /data
EXPOSE 80
# Slim images have no curl. Loading a large model takes minutes, during which nothing answers yet.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
  CMD ["python3", "-c", "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ['PORT']}/health\", timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["optimus", "serve", "--hostname", "0.0.0.0"]
