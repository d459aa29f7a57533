#!/usr/bin/env bash
# See that MuJoCo can render without a display and install Mesa where it cannot; never fails, since training from states or in ALE needs no GL.
# usage: scripts/install_gl.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."

python=$1
stamp=$(dirname "$python")/.gl

renders() {
    for backend in egl osmesa; do
        timeout 60 "$python" -m curl_rl.envs.probe "$backend" >/dev/null 2>&1 && touch "$stamp" && return 0
    done
    return 1
}

if [ -e "$stamp" ] || renders; then
    exit 0
fi
echo "no GL backend renders here: DeepMind Control needs EGL or OSMesa to draw its pixels"
# libegl1 alone brings neither a software driver (libgl1-mesa-dri) nor the GL that PyOpenGL loads (libopengl0).
scripts/apt_install.sh libegl1 libgl1-mesa-dri libopengl0 || exit 0
renders && exit 0
if ! scripts/apt_install.sh libosmesa6 || ! renders; then
    echo "GL is installed and still does not render: see what \`curl-rl doctor\` says" >&2
fi
