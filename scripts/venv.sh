#!/bin/sh
# Makes a Python environment TOOLS/NAME with exactly the packages of a requirements file, unless it is there: `venv.sh TOOLS
# NAME REQUIREMENTS`. Its programs are in TOOLS/NAME/bin.
set -eu
venv=$1/$2
pins=$3
# The list goes in last, so that an installation which was broken off is begun anew.
if ! cmp -s "$pins" "$venv/requirements.txt" || ! "$venv/bin/python" -c '' 2>/dev/null; then
    echo "installing $(sed -n 's/^\([a-zA-Z][^ ;#]*\).*/\1/p' "$pins" | head -n 1) into $venv"
    python3 -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$pins"
    cp "$pins" "$venv/requirements.txt"
fi
