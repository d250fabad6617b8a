# The images, for this machine or for boards:  docker buildx bake [TARGET]      (docs/devices.md: which board, which target)
#
#   docker buildx bake                    both images for this machine
#   docker buildx bake pi                 the worker for a Raspberry Pi 4 or 5
#   docker buildx bake release            both images for amd64 and arm64 in one (wants a registry: --push)
#
# What is built for boards has the tag `node`, so that it is never taken for this machine's own; compose.node.yaml uses
# it. On a board: docker buildx bake pi. Elsewhere: make image-arm64 TARGET=pi, which writes it to a file for docker load.

variable "TAG" {
  default = "latest"
}

variable "NODE_TAG" {
  default = "node"
}

# What both images are built on, where it is not the Jetson's own. Elsewhere than on Docker Hub, say on a mirror:
# PYTHON_IMAGE=mirror.local/python:3.11-slim-bookworm docker buildx bake
variable "PYTHON_IMAGE" {
  default = "python:3.11-slim-bookworm"
}

# NVIDIA's TensorFlow for the GPUs of Jetson boards on JetPack 6. It says which JetPack 6 each release is for.
variable "JETPACK6_IMAGE" {
  default = "nvcr.io/nvidia/tensorflow:24.08-tf2-py3-igpu"
}

group "default" {
  targets = ["aggregator", "worker"]
}

group "release" {
  targets = ["aggregator-release", "worker-release"]
}

group "boards" {
  targets = ["pi", "jetson-orin", "jetson-xavier", "jetson-nano"]
}

target "aggregator" {
  context    = "."
  dockerfile = "services/aggregator/Dockerfile"
  args       = { BASE_IMAGE = "${PYTHON_IMAGE}" }
  tags       = ["roundtable-aggregator:${TAG}"]
}

target "worker" {
  context    = "."
  dockerfile = "services/worker/Dockerfile"
  args       = { BASE_IMAGE = "${PYTHON_IMAGE}" }
  tags       = ["roundtable-worker:${TAG}"]
}

target "aggregator-release" {
  inherits  = ["aggregator"]
  platforms = ["linux/amd64", "linux/arm64"]
}

target "worker-release" {
  inherits  = ["worker"]
  platforms = ["linux/amd64", "linux/arm64"]
}

# An aggregator on a Pi 5 or a Jetson: it needs no TensorFlow, and little else.
target "aggregator-arm64" {
  inherits  = ["aggregator"]
  tags      = ["roundtable-aggregator:${NODE_TAG}"]
  platforms = ["linux/arm64"]
}

# Raspberry Pi 4 and 5 with a 64-bit system: TensorFlow's own build for arm64, on the CPU.
target "pi" {
  inherits  = ["worker"]
  tags      = ["roundtable-worker:${NODE_TAG}"]
  platforms = ["linux/arm64"]
}

# Jetson Orin on JetPack 6: the GPU, by the TensorFlow that NVIDIA builds for it; nothing of it is installed anew.
target "jetson-orin" {
  inherits = ["pi"]
  args = {
    BASE_IMAGE = "${JETPACK6_IMAGE}"
    TENSORFLOW = "from-base"
  }
}

# Jetson Xavier on JetPack 5: CPU alone. What NVIDIA builds for its GPU runs on that system's Python 3.8, with TensorFlow
# from before Keras 3; this worker needs Python 3.10 and Keras 3.
target "jetson-xavier" {
  inherits = ["pi"]
}

# Jetson Nano, 4 GB, on JetPack 4: CPU alone, for the same reason (there it is Python 3.6).
target "jetson-nano" {
  inherits = ["pi"]
}

# armv7 (Pi 2, 3 and Zero 2 with a 32-bit system): no target. TensorFlow has no build for it; such a board is watched
# by Telegraf alone: docker compose -f compose.node.yaml up -d telegraf
