#!/usr/bin/env bash
# Make the environment of requirements.lock anew: PYTHON=python3.11 TORCH=auto bash .ci/env.sh .venv
#
# TORCH says which build of PyTorch Linux gets; other systems have only one:
#   cuda   the build for NVIDIA's GPUs, from the package index in use: 3.2 GB to download, 6.1 GB on disk
#   cpu    the CPU build, which PyTorch keeps on an index of its own (uv knows where): 0.5 GB to download, 1.6 GB on disk;
#          where only the package index in use can be reached, its build without NVIDIA's libraries (cpu_torch.py says
#          how): 0.8 GB to download, 2.0 GB on disk
#   auto   cuda where NVIDIA's driver is there, else cpu
# A driver too old for that build needs an older one: .venv/bin/uv pip install --reinstall --torch-backend=auto torch torchvision
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
lock=$here/requirements.lock
folder=${1:-$here/.venv}
torch=${TORCH:-auto}
PYTHON=${PYTHON:-python3}

say() { printf '%s\n' "$*"; }
in_env() { "$folder/bin/python" "$@"; }
by_pip() { in_env -m pip install -qq --compile --disable-pip-version-check "$@"; }
# uv is ten times as fast as pip, but does not know the index that pip may be set to. Both compile byte code.
by_uv() { in_env -m uv --quiet pip install --compile-bytecode --python "$folder/bin/python" "$@" 2>"$folder/uv.log"; }
install() { by_uv "$@" || by_pip "$@"; }
pins() { grep -E "^($1)==" "$lock"; }
gpu() { nvidia-smi -L >/dev/null 2>&1 || [ -e /dev/nvidiactl ] || [ -e /proc/driver/nvidia/version ]; }

case $torch in
  auto) if gpu; then torch=cuda; else torch=cpu; fi ;;
  cpu | cuda) ;;
  *) say "TORCH=$torch: expected auto, cpu or cuda" >&2; exit 2 ;;
esac
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  say "PYTHON=$PYTHON is older than 3.11; name another: PYTHON=/path/to/python3.11" >&2; exit 1
}
say "Making $(basename "$folder"): a minute or two."
"$PYTHON" -m venv --clear "$folder"
by_pip "$(pins uv)" || say "uv is not on your package index: pip installs everything, which takes minutes."

if [ "$torch" = cuda ] || [ "$(uname -s)" != Linux ]; then
  say "Installing requirements.lock with the PyTorch of your package index."
  install -r "$lock"
elif by_uv --torch-backend=cpu --no-deps $(pins 'torch|torchvision'); then
  say "Installing requirements.lock with PyTorch's CPU build."
  install --no-deps -r "$lock"
else
  say "Installing requirements.lock with the PyTorch of your package index, without NVIDIA's libraries, as PyTorch's" \
      "own index cannot be used from here."
  install --no-deps -r "$lock"
  { runtime=$(in_env "$here/.ci/cpu_torch.py") && install "$runtime" && in_env "$here/.ci/cpu_torch.py" try; } || {
    say "That PyTorch does not run without NVIDIA's libraries: starting again with all of them." >&2
    TORCH=cuda exec bash "$0" "$folder"
  }
fi
