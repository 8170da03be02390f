#!/bin/sh
# Runs a test program as root, with what it needs of the environment.
exec sudo env "PATH=$PATH" "AZURITE=$AZURITE" "SCHEMATHESIS=$SCHEMATHESIS" "CARGO_MANIFEST_DIR=$PWD" "$@"
