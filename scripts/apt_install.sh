#!/usr/bin/env bash
# Install Debian packages as root or through sudo without a password; otherwise print the one command and fail.
set -euo pipefail

as_root=()
command="apt-get install -y --no-install-recommends $*"
[ "$(id -u)" -eq 0 ] || as_root=(sudo -n)

if command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }; then
    echo "installing $* through apt"
    export DEBIAN_FRONTEND=noninteractive
    if "${as_root[@]}" apt-get update -qq && "${as_root[@]}" $command -qq -o Dpkg::Use-Pty=0 >/dev/null; then
        exit 0
    fi
fi
echo "curl-rl needs the system packages: $*. On Debian or Ubuntu: sudo apt-get update && sudo $command" >&2
exit 1
