# parfocal in a container; docs/install.md shows how to run it.
#   docker build -t parfocal .                              for CPUs
#   docker build --build-arg DEVICE=cuda -t parfocal-cuda . for NVIDIA GPUs
# The steps are those of container/install.sh, which also runs without Docker.
FROM python:3.11-slim AS build
ARG DEVICE=cpu
ARG EXTRAS=onnx
# Index of torch's CPU builds, or a mirror of it; empty for the usual index.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY . /source
RUN TORCH_INDEX="$TORCH_INDEX" sh /source/container/install.sh /opt/parfocal "$DEVICE" "$EXTRAS"

FROM python:3.11-slim
COPY --from=build /opt/parfocal /opt/parfocal
# All that is written, except results, goes to /tmp, which may be a tmpfs, and weights to /models.
# Nothing is written to the image, so that its root can be read-only.
ENV PATH=/opt/parfocal/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/matplotlib \
    TORCH_HOME=/tmp/torch \
    HF_HOME=/models \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /data
EXPOSE 8642
ENTRYPOINT ["parfocal"]
CMD ["--help"]
