# syntax=docker/dockerfile:1

FROM python:3.12-slim AS build

# The package index that serves torch's CPU wheels. Left empty, torch comes from the default
# index with several gigabytes of CUDA libraries, which only the trainer can use.
ARG TORCH_INDEX_URL=""

RUN python -m venv /opt/esper
ENV PATH=/opt/esper/bin:$PATH
WORKDIR /src

COPY constraints.txt ./
# --no-deps: that index may lack the dependencies of torch. The installation below adds them and
# finds torch installed.
RUN --mount=type=cache,target=/root/.cache/pip \
    if [ -n "$TORCH_INDEX_URL" ]; then \
        pip install --no-deps --index-url "$TORCH_INDEX_URL" --constraint constraints.txt torch; \
    fi

COPY pyproject.toml README.md LICENSE ./
# esper/topics and esper/workers are links to the folders beside it: pip follows them.
COPY topics topics
COPY esper esper
COPY workers workers
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt ".[workers]"


FROM python:3.12-slim

LABEL org.opencontainers.image.title="esper" \
      org.opencontainers.image.description="Neural networks that grow while they train" \
      org.opencontainers.image.licenses="Apache-2.0"

# Created here so that a new volume mounted on either is writable for the user below.
RUN install --directory --owner=10001 --group=10001 --mode=0700 \
    /var/lib/esper /var/lib/esper/keys

COPY --from=build /opt/esper /opt/esper

# Libraries write caches to HOME: the root filesystem may be read-only, /tmp never is.
ENV PATH=/opt/esper/bin:$PATH \
    ESPER_HOME=/var/lib/esper \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

WORKDIR /var/lib/esper
# A number, so that Kubernetes can check that the user is not root.
USER 10001:10001

ENTRYPOINT ["esper"]
