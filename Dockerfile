# Dockerfile: the converters and the trainer in an image; nobody has built it yet.
#
#   docker build -t ondevice .
#   docker run --rm -v "$PWD:/work" -u "$(id -u):$(id -g)" ondevice convert checkpoint --out models
#
# Packages come by the hashes of the lock files, torch as its build for CPUs.
FROM python:3.11-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY requirements.lock requirements-cpu.lock ./
RUN python -m venv /opt/ondevice \
    && /opt/ondevice/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock \
    && /opt/ondevice/bin/pip install --no-cache-dir --no-deps --require-hashes \
        --index-url https://download.pytorch.org/whl/cpu -r requirements-cpu.lock
COPY . .
# the engine is optional elsewhere; here an image without it is a failed build
RUN /opt/ondevice/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
    && cd / && /opt/ondevice/bin/python -c "import ondevice._native"

FROM python:3.11-slim-bookworm
COPY --from=build /opt/ondevice /opt/ondevice
RUN useradd --create-home --uid 1000 ondevice
ENV PATH=/opt/ondevice/bin:$PATH HOME=/tmp
USER ondevice
WORKDIR /work
ENTRYPOINT ["ondevice"]
CMD ["--help"]
