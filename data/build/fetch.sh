#!/usr/bin/env bash
# Download and unpack the pinned public packages the artworks come from: bash fetch.sh DIR
set -euo pipefail
dir=${1:?usage: fetch.sh DIR}
mkdir -p "$dir/npm/x" "$dir/deb/x"
cd "$dir/npm"
npm pack --silent @lobehub/fluent-emoji-3d@1.1.0 @iconify/json@2.2.535 openmoji@17.0.0 @expo-google-fonts/noto-emoji@0.4.7
for f in *.tgz; do mkdir -p "x/${f%.tgz}"; tar xzf "$f" -C "x/${f%.tgz}" --strip-components=1; done
ln -sfn expo-google-fonts-noto-emoji-0.4.7 x/notofont
cd ../deb
# Debian 12: fonts-symbola 2.60, gcompris-qt-data 3.1, scratch 1.4.0.6, tuxpaint-stamps-default 2022.06.04
apt-get download fonts-symbola gcompris-qt-data scratch tuxpaint-stamps-default
for f in *.deb; do mkdir -p "x/${f%%_*}"; dpkg -x "$f" "x/${f%%_*}"; done
