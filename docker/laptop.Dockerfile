# One image with everything the two README commands need; a team's cluster splits it (docker/Dockerfile).
#   docker build -f docker/laptop.Dockerfile -t smar .
#   docker run --rm -v smar:/var/lib/smar smar make retrain
FROM python:3.11.15-slim-bookworm

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Debian's point releases move the patch versions; the major versions are what the project needs.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends git make openjdk-17-jre-headless \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --uid 1000 --create-home smar && install -d -o smar /opt/smar /var/lib/smar
USER 1000
WORKDIR /opt/smar

# The environment changes with the lock alone, not with every line of code.
COPY --chown=smar Makefile pyproject.toml requirements.lock README.md ./
COPY --chown=smar smar_model/__init__.py smar_model/__init__.py
COPY --chown=smar jobs/__init__.py jobs/__init__.py
RUN make setup
COPY --chown=smar . .

ENV SMAR_HOME=/var/lib/smar
CMD ["make", "retrain"]
