# Two variants by build argument:
#   docker build -t stemify .                                    CPU (PyTorch's own index of CPU wheels)
#   docker build -t stemify:cuda --build-arg TORCH=cuda .        NVIDIA GPUs (the CUDA wheels of PyPI)
# EXTRAS=cluster brings Ray.
FROM python:3.11-slim AS build
ARG TORCH=cpu
ARG EXTRAS=
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY bot bot
COPY config config
COPY engine engine
RUN python -m venv /venv \
    && if [ "$TORCH" = cpu ]; then extra="--extra-index-url https://download.pytorch.org/whl/cpu"; else extra=""; fi \
    && /venv/bin/pip install --no-cache-dir -c constraints.txt $extra ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.11-slim
# The compiler is for the CPU's kernels, which are built on the machine that they are for.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 10001 stemify && mkdir /data && chown stemify /data
COPY --from=build /venv /venv
USER stemify
WORKDIR /home/stemify
# Everything that is written goes under /data; the rest of the file system may be read-only (/tmp is a tmpfs).
ENV STEMIFY_DATA_DIR=/data STEMIFY_WEB__HOST=0.0.0.0 PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
CMD ["python", "-m", "bot"]
