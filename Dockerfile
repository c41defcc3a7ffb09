# Variants by build argument:
#   docker build -t stemify .                                    CPU (PyTorch's own index of CPU wheels)
#   docker build -t stemify:cuda --build-arg TORCH=cuda .        NVIDIA GPUs (the CUDA wheels of PyPI)
#   docker build -t stemify:amd --build-arg TORCH=rocm7.1 .      AMD GPUs (docs/devices.md)
# EXTRAS=cluster brings Ray, EXTRAS=voice songs in voice channels, EXTRAS="cluster voice" both.
FROM python:3.11-slim AS build
ARG TORCH=cpu
ARG EXTRAS=
WORKDIR /app
# Everything but torch, by hash (image/lock.py writes the lists), from PyPI alone.
COPY image image
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --require-hashes --no-deps -r image/requirements.txt \
    && for extra in $EXTRAS; do \
        /venv/bin/pip install --no-cache-dir --require-hashes --no-deps -r "image/requirements-$extra.txt" || exit 1; \
    done
# torch from its own index, which nothing else is taken from; the CUDA wheel needs NVIDIA's packages from PyPI.
COPY constraints.txt ./
RUN torch=$(grep '^torch==' constraints.txt) \
    && if [ "$TORCH" = cpu ]; then \
        /venv/bin/pip install --no-cache-dir --no-deps --index-url https://download.pytorch.org/whl/cpu "$torch"; \
    elif [ "$TORCH" = cuda ]; then \
        /venv/bin/pip install --no-cache-dir -c constraints.txt "$torch"; \
    else \
        /venv/bin/pip install --no-cache-dir -c constraints.txt \
            --index-url "https://download.pytorch.org/whl/$TORCH" "$torch"; \
    fi
COPY pyproject.toml README.md LICENSE ./
COPY bot bot
COPY config config
COPY engine engine
RUN /venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation . && /venv/bin/pip check

FROM python:3.11-slim
# The compiler is for the CPU's kernels, which are built on the machine that they are for.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 10001 stemify && mkdir --mode=700 /data && chown stemify /data
COPY --from=build /venv /venv
USER stemify
WORKDIR /home/stemify
# Everything that is written goes under /data; the rest of the file system may be read-only (/tmp is a tmpfs).
ENV STEMIFY_DATA_DIR=/data STEMIFY_WEB__HOST=0.0.0.0 PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-m", "engine.web.health_check"]
STOPSIGNAL SIGTERM
CMD ["python", "-m", "bot"]
